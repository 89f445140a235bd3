"""What is written of settings is made from them, or names what exists."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePath

import click
import pytest

import mxworker
from docs.generators.settings import page
from mxworker.cli import main
from mxworker.cli.config.defaults import defaults
from mxworker.cli.config.document import parse
from mxworker.cli.config.files import profile, profiles
from mxworker.cli.config.options import BY_KEY, LEAVES
from tests.harness.parsing import parsed
from tests.harness.repository import REPOSITORY

PACKAGE = Path(mxworker.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z0-9]+)*(?![\w-])")
VARIABLE = re.compile(r"\bMXWORKER_[A-Z_]+\b")
OTHERS = {"--help", "--version", "--apply-to", "--user", "--broker", "--mx-broker-url"}
"""Of every command; of `rabbitmqctl` and `runuser`; of pytest."""
OF_THE_BROKER = {"--control", "--limits", "--listening-fd"}
"""Of the embedded broker's own process."""
OWN_VARIABLES = {"MXWORKER_ENV", "MXWORKER_EMBEDDED_PASSWORD"}


def options(command: click.Command) -> Iterator[click.Option]:
    yield from (each for each in command.params if isinstance(each, click.Option))
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from options(inner)


FLAGS = {flag for option in options(main) for flag in (*option.opts, *option.secondary_opts)} | OTHERS | OF_THE_BROKER
VARIABLES = {str(option.envvar) for option in options(main) if option.envvar} | OWN_VARIABLES
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are no docstrings, or a whole page."""
    if path.suffix != ".py":
        yield path.read_text()
        return
    tree = parsed(path)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


def test_each_setting_has_one_row_of_the_page() -> None:
    rows = re.findall(r"^\| `([\w.-]+)`(?: \(`-\w`\))? \|", page(), re.MULTILINE)
    assert rows == [leaf.key for leaf in LEAVES]


def test_the_file_of_defaults_changes_nothing_and_has_every_setting() -> None:
    assert parse(defaults(), "defaults", PurePath()) is not None
    assert [value for value in tomllib.loads(defaults()).values() if value] == []
    uncommented = re.sub(r"^#(?=[\w-]+ = |\[)", "", defaults(), flags=re.MULTILINE)
    read = tomllib.loads(uncommented.partition("# ---- One queue")[0])
    keys = [key for key, value in read.items() if not isinstance(value, dict)]
    keys += [f"{table}.{key}" for table, values in read.items() if isinstance(values, dict) for key in values]
    assert sorted(keys) == sorted(BY_KEY)


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf.default not in (None, ())], ids=lambda leaf: leaf.key)
def test_the_file_of_defaults_says_the_default(leaf: object) -> None:
    assert isinstance(leaf, type(LEAVES[0]))
    head, _, key = leaf.key.rpartition(".")
    (line,) = re.findall(
        rf"^#({key} = .*)$", defaults().partition(f"[{head}]\n")[2] if head else defaults(), re.MULTILINE
    )[:1]
    read = parse(f"[{head}]\n{line}" if head else line, "defaults", PurePath())
    assert read is not None
    assert read.values[leaf.key] == leaf.default


@pytest.mark.parametrize("name", profiles())
def test_a_profile_is_valid_and_lies_in_conf(name: str) -> None:
    assert profile(name).values
    link = REPOSITORY / "conf" / f"{name}.toml"
    assert link.is_symlink()
    assert link.read_text() == (PACKAGE / "cli" / "config" / "profiles" / f"{name}.toml").read_text()
    uncommented = re.sub(r"^#(?=[\w-]+ = |\[)", "", link.read_text(), flags=re.MULTILINE)
    assert parse(uncommented, name, PurePath()) is not None


def test_the_throughput_profile_has_the_values_of_the_guide() -> None:
    values = profile("throughput").values
    assert BY_KEY["prefetch"].kind.write(values["prefetch"]) == "1000/workers"
    assert values["publisher.max-in-flight"] == 10_000
    assert (values["publisher.compression"], values["publisher.compression-level"]) == ("gzip", 6)
    assert values["publisher.compression-threshold"] == 1024
    assert values["pool.borrow-timeout"] == 5


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_text_that_names_a_flag_or_a_variable_names_one_that_exists(path: Path) -> None:
    said = [text for text in texts(path) if "://" not in text or path.suffix == ".py"]
    if path.suffix == ".py":
        flags = {flag for text in said for flag in FLAG.findall(text)}
    else:  # in a page, other programs have flags as well
        lines = [line for text in said for line in text.splitlines() if "mxworker" in line and "pip" not in line]
        flags = {flag for line in lines for flag in FLAG.findall(line.partition("mxworker")[2])}
    assert flags - FLAGS == set()
    assert {variable for text in said for variable in VARIABLE.findall(text)} - VARIABLES == set()
