"""The options of a command, made from the leaves of the settings tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from mxworker.cli.help import Option
from mxworker.config.kinds import Switch, Text, Texts
from mxworker.config.leaf import Leaf, leaves
from mxworker.config.tree import DEFAULTS
from mxworker.errors import ConfigError

LEAVES = tuple(leaves(DEFAULTS))
BY_KEY = {leaf.key: leaf for leaf in LEAVES}
_EXISTING = click.Path(exists=True, file_okay=False)


class LeafType(click.ParamType[Any]):
    """The values of one setting, or of one of several texts."""

    def __init__(self, leaf: Leaf) -> None:
        kind = leaf.kind
        self._kind = Text(kind.metavar) if isinstance(kind, Texts) and kind.is_repeated else kind
        self.name = kind.metavar.lower()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that a text means, or a value that was read from a file before."""
        try:
            meant = self._kind.parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        if not self._kind.allows(meant):
            self.fail(f"'{value}' is not {self._kind.allowed}.", param, ctx)
        if isinstance(self._kind, Text) and self._kind.is_directory:
            return _EXISTING.convert(meant, param, ctx)
        return meant


class LeafOption(Option):
    """The option of a setting."""

    def __init__(self, *args: Any, leaf: Leaf, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.leaf = leaf


def option_of(leaf: Leaf) -> LeafOption:
    """Return the option of a setting, with its environment variable and its default."""
    kind = leaf.kind
    settings: dict[str, Any] = {
        "leaf": leaf,
        "section": leaf.section,
        "envvar": leaf.variable,
        "show_envvar": True,
        "help": leaf.sentence,
    }
    if isinstance(kind, Switch):
        flag = f"{leaf.flag}/--no-{leaf.flag.removeprefix('--')}" if kind.has_off else leaf.flag
        return LeafOption(
            [flag], is_flag=True, default=leaf.default, show_default="on" if leaf.default else None, **settings
        )
    is_repeated = isinstance(kind, Texts) and kind.is_repeated
    default = leaf.text_of(leaf.default)
    return LeafOption(
        [*([leaf.short] if leaf.short else []), leaf.flag],
        type=LeafType(leaf),
        multiple=is_repeated,
        default=default,
        metavar=kind.metavar,
        show_default=leaf.unset or default is not None,
        **settings,
    )


def options_of(chosen: Iterable[Leaf]) -> list[click.Parameter]:
    """Return the options of settings, in their order."""
    return [option_of(leaf) for leaf in chosen]


def with_options(made: list[click.Parameter]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives options to a function, in their order, as `click.option` does for one."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        known: list[click.Parameter] = command.__dict__.setdefault("__click_params__", [])
        known += reversed(made)  # click reverses them, since decorators apply from the last to the first
        return command

    return add
