"""Every command with its arguments and options, made from click's commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

import click

from docs.generators.markdown import code, table
from docs.generators.markdown import page as page_of
from mxworker.cli import main
from mxworker.cli.config.options import LEAVES, LeafOption
from mxworker.cli.help import EXIT_CODES, Command

_INTRODUCTION = """\
`mxworker COMMAND --help` shows the same in the terminal. An option that is a [setting](settings.md) has an environment
variable and a key in `mxworker.toml` too. Durations are written `250ms`, `30s`, `5m`, `2h`; sizes `512KB`, `512MB`."""

_Row = tuple[str, str, str, str]


def page() -> str:
    """Return the page."""
    return page_of("Command line", _INTRODUCTION, *_command(main, "mxworker", _Said()))


@dataclass(frozen=True, slots=True)
class _Said:
    """What a group has said for its commands, so that they do not repeat it."""

    settings: str = ""
    options: Sequence[_Row] = ()
    exit_codes: str = ""


def _command(command: click.Command, path: str, said: _Said) -> Iterator[str]:
    """Yield the parts of a command, and then those of the commands in it."""
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    yield f"{'#' * min(3, 1 + len(path.split()))} {' '.join((path, *arguments))}"
    yield cleandoc(command.help or "")
    inner = sorted(command.commands.items()) if isinstance(command, click.Group) else []
    if inner:
        said = _shared([each for _, each in inner])
        if said.options:
            yield f"Each command of `{path}` takes these options:"
        yield from _about(said, _Said())
    else:
        yield from _about(_Said(_settings(command), _options(command), _exit_codes(command)), said)
    if isinstance(command, Command) and command.examples:
        yield "\n".join(("```sh", *command.examples, "```"))
    for name, each in inner:
        yield from _command(each, f"{path} {name}", said)


def _shared(commands: Sequence[click.Command]) -> _Said:
    """Return what is the same for all commands of a group, and the exit codes that most of them have."""
    settings = {_settings(each) for each in commands}
    options = [row for row in _options(commands[0]) if all(row in _options(each) for each in commands)]
    exit_codes, number = Counter(_exit_codes(each) for each in commands).most_common(1)[0]
    return _Said(
        settings.pop() if len(settings) == 1 else "", options, exit_codes if number > len(commands) / 2 else ""
    )


def _about(command: _Said, said: _Said) -> Iterator[str]:
    """Yield what there is to say of a command that was not said before."""
    rows = [row for row in command.options if row not in said.options]
    if rows:
        yield table(("option", "default", "variable", "what it does"), rows)
    if command.settings != said.settings:
        yield command.settings
    if command.exit_codes != said.exit_codes:
        yield command.exit_codes


def _argument(argument: click.Argument) -> str:
    name = (argument.metavar or (argument.name or "").upper()) + ("..." if argument.nargs == -1 else "")
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _settings(command: click.Command) -> str:
    """Return which options are settings. The page of the settings says the rest of them."""
    taken = [each.leaf for each in command.params if isinstance(each, LeafOption)]
    if len(taken) == len(LEAVES):
        return "It takes all [settings](settings.md) as options, too."
    flags = ", ".join(code(leaf.flag) for leaf in taken)
    return f"Options that are [settings](settings.md): {flags}." if taken else ""


def _options(command: click.Command) -> Sequence[_Row]:
    return [
        (_flags(each), _default(each), code(str(each.envvar or "")), each.help or "")
        for each in command.params
        if isinstance(each, click.Option) and not isinstance(each, LeafOption) and not each.hidden
    ]


def _exit_codes(command: click.Command) -> str:
    codes = command.exit_codes if isinstance(command, Command) else {}
    if codes == EXIT_CODES:
        return "Exit codes: [those of a service](exit-codes.md)."
    return f"Exit codes: {'; '.join(f'`{code:d}` {meaning}' for code, meaning in codes.items())}."


def _flags(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or _values(option.type)}"
    return ", ".join(code(flag + value) for flag in (*option.opts, *option.secondary_opts))


def _values(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.IntRange | click.FloatRange):
        return "N"
    return "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else kind.name.upper()


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    has_default = isinstance(option.default, str | int | float) and not option.is_flag
    return code(str(option.default)) if has_default else ""
