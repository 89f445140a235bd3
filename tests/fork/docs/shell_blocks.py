"""Command lines in the documentation, parsed by the programs that they name, and not run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from mxworker.cli import main
from tests.harness.repository import REPOSITORY

SEPARATORS = frozenset(";|&")
HARMLESS = frozenset(
    {".", "export", "cd", "cat", "ls", "mkdir", "chmod", "chown", "cp", "echo", "kill", "openssl", "sleep"}
)
"""What a reader sees through, and what no change of mxworker breaks."""


def check_shell(text: str, everything: bool = True) -> None:
    """Check the commands of a block by the syntax of the shell and their own options.

    With `everything` an unknown program is an AssertionError; otherwise only those that can be checked are.
    """
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    for words in commands(text):
        check_command(words, everything)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command, without the shell around it: variables, redirections, pipes."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if not set(word) <= SEPARATORS:
                command.append(word)
            elif plain := without_shell(command):
                yield plain
                command = []
            else:
                command = []


def without_shell(words: list[str]) -> list[str]:
    """Return a command without what is set before it and without its redirections."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif set(word) <= set("<>&"):
            skip = True
        else:
            kept.append(word)
    return kept


def check_command(words: list[str], everything: bool) -> None:
    match [Path(words[0]).name or words[0], *words[1:]]:
        case ["sudo", *rest]:
            check_command(rest, everything)
        case ["mxworker", *arguments] | ["python" | "python3", "-m", "mxworker", *arguments]:
            check_mxworker(arguments)
        case ["python" | "python3", "-m", "venv", *_]:
            pass
        case ["python" | "python3", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None, f"there is no module {module}"
        case ["pip", "install", *packages]:
            for package in packages:
                check_package(package)
        case ["make", *targets]:
            known = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            asked = {target for target in targets if "=" not in target}
            assert asked <= set(known), f"the Makefile has no target {asked - set(known)}"
        case [name, *_]:
            assert name in HARMLESS or not everything, (
                f"{shlex.join(words)!r} cannot be checked. Put a mark above the block: <!-- not run: why -->"
            )


def check_package(package: str) -> None:
    """Check that the extras of mxworker exist."""
    if package.startswith("mxworker["):
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        extras = set(package.removeprefix("mxworker[").rstrip("]").split(","))
        assert extras <= set(project["optional-dependencies"]), f"{package} has an extra that does not exist"


def check_mxworker(arguments: list[str]) -> None:
    """Let click parse the arguments of `mxworker`, down to the last command."""
    command: click.Command = main
    context: click.Context | None = None
    try:
        while True:
            context = command.make_context(command.name or "mxworker", list(arguments), parent=context)
            if not isinstance(command, click.Group):
                return
            _, inner, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
            assert inner is not None
            command = inner
    except click.exceptions.Exit:
        pass  # --help, --version
    except click.UsageError as error:
        if isinstance(error, click.BadParameter) and str(error.message).endswith("does not exist."):
            return  # a file or directory of the reader
        raise AssertionError(f"mxworker {shlex.join(arguments)}: {error.format_message()}") from error
