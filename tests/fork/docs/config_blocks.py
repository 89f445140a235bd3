"""Files in the documentation, read by what reads them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Hashable, Iterator
from pathlib import PurePath
from typing import Any

import yaml

from mxworker.cli.config.document import parse
from tests.fork.docs.shell_blocks import check_command, check_mxworker

INSTRUCTIONS = frozenset(
    ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR")
)


class Strict(yaml.SafeLoader):
    """A loader that takes no key twice, where YAML itself would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # type: ignore[no-untyped-call]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key twice in {keys}"
        return super().construct_mapping(node, deep)


def check_toml(text: str) -> None:
    """Read settings as mxworker does, from the whole file or from its part of `pyproject.toml`."""
    tables = tomllib.loads(text)
    root = ("tool", "mxworker") if "tool" in tables or "project" in tables else ()
    parse(text, "the block", PurePath(), root)


def check_yaml(text: str) -> None:
    """Read each document, and have the command lines in them parsed."""
    for document in yaml.load_all(text, Strict):
        for arguments in command_lines(document):
            check_mxworker(arguments[arguments[0] == "mxworker" :])


def command_lines(value: Any) -> Iterator[list[str]]:
    """Yield the lists in a document that are arguments of mxworker."""
    if isinstance(value, list) and value and value[0] in ("mxworker", "run", "status"):
        yield [str(word) for word in value]
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from command_lines(inner)


def check_unit(text: str) -> None:
    """Read a unit of systemd, or a part of one, and have its commands parsed."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    for line in re.findall(r"^Exec\w+=[-+!:@]*(.+)$", text.replace("\\\n", " "), re.MULTILINE):
        check_command(shlex.split(line), everything=False)


def check_json(text: str) -> None:
    for line in [text] if text.lstrip().startswith(("{\n", "[\n")) else text.splitlines():
        json.loads(line)


def check_dockerfile(text: str) -> None:
    """Check the names of the instructions, and the commands that are written as lists."""
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, arguments = line.partition(" ")
        if not line or line.startswith("#"):
            continue
        assert instruction in INSTRUCTIONS, f"{instruction} is no instruction"
        words = arguments.removeprefix("CMD ") if instruction == "HEALTHCHECK" else arguments
        if instruction == "CMD" or words.startswith('["mxworker"'):
            check_mxworker([word for word in json.loads(words) if word != "mxworker"])
