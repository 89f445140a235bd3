"""`--help` of every command: it fits 80 columns, is in sections, and ends with the exit codes and an example."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mxworker.cli import main

_OF_A_SERVICE = [
    *("Broker", "Application", "Concurrency", "Handlers", "Limits", "Publisher", "Connections"),
    *("Supervision", "HTTP", "Logging", "Configuration"),
]
SECTIONS = [*_OF_A_SERVICE, "Other options", "Exit codes"]
BOUNDLESS = {"broker_url", "tls_cert", "reload_dir", "control_socket"}  # without them there is nothing to show


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


ALL = dict(commands(main))


def shown(*path: str, columns: int = 80) -> str:
    ended = CliRunner(env={"COLUMNS": str(columns)}).invoke(main, [*path, "--help"], prog_name="mxworker")
    assert ended.exit_code == 0
    return ended.output


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_80_columns_and_cuts_no_sentence(path: tuple[str, ...], columns: int) -> None:
    lines = shown(*path, columns=columns).splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_ends_with_exit_codes_and_an_example_that_is_understood(path: tuple[str, ...]) -> None:
    _, _, end = shown(*path).partition("\nExit codes:\n")
    codes, _, examples = re.sub("\nExamples?:\n", "\0", end).partition("\0")
    assert re.match("  0 ", codes)
    assert "\n  2 " in codes
    for example in examples.splitlines():
        name, *arguments = example.split()
        assert name == "mxworker"
        command: click.Command = main
        for word in arguments:
            command = command.commands.get(word, command) if isinstance(command, click.Group) else command
        assert command is not main
    if path:
        assert f"  mxworker {path[0]}" in examples


@pytest.mark.parametrize("name", ["run", "dev"])
def test_options_are_in_sections(name: str) -> None:
    headings = re.findall(r"^(\w[\w ]*):$", shown(name), re.MULTILINE)
    assert headings[: len(SECTIONS)] == SECTIONS


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_a_sentence_and_shows_its_default(path: tuple[str, ...]) -> None:
    for option in ALL[path].params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        assert option.help is not None
        assert option.help[0].isupper(), option.name
        assert option.help.endswith("."), option.name
        assert option.show_default or option.is_flag or option.name in BOUNDLESS, option.name
    if path in (("run",), ("dev",)):
        text = " ".join(shown(*path).split())
        for option in ALL[path].params:
            if isinstance(option, click.Option) and not option.hidden:
                assert f"[env var: {option.envvar}" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mxworker.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'aio_pika', 'aiormq', 'pamqp', 'watchfiles'}\n"
        "print(sorted(heavy.intersection(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
