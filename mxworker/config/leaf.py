"""Leaves of the settings tree: how a setting is called, and everything else that an operator sees of it.

A leaf is a field of a frozen dataclass, made by `leaf`. A dataclass inside another one is made by `group`. `leaves`
walks the tree. The flag of a setting, its environment variable, its key in a TOML file, its help, and its row in the
reference are all made from its leaf. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from mxworker.config.kinds import Kind
from mxworker.errors import ConfigError

_UNITS = ("_s", "_bytes")
"""The units in names of fields; the names of settings leave them out, since a value is written with its unit."""


@dataclass(frozen=True, slots=True)
class _Described:
    """What a field of the tree says of itself."""

    kind: Kind
    sentence: str
    name: str | None
    short: str | None
    unset: str
    is_secret: bool


@dataclass(frozen=True, slots=True)
class _Grouped:
    """What a dataclass inside another one says of itself."""

    cls: type
    section: str | None
    prefix: str | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting. `path` are the names of the attributes that lead to it from the root of the tree."""

    path: tuple[str, ...]
    key: str
    """Its key in a TOML file; a dot means a table."""
    kind: Kind
    default: Any
    unset: str
    """What a default of None, or of no texts, means; empty when it needs no words."""
    sentence: str
    section: str
    short: str | None = None
    is_secret: bool = False
    """Whether its values are never shown."""

    @property
    def name(self) -> str:
        """The name of the option, as a command has it."""
        return self.key.replace(".", "_").replace("-", "_")

    @property
    def flag(self) -> str:
        """The flag."""
        return f"--{self.key.replace('.', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"MXWORKER_{self.name.upper()}"

    def text_of(self, value: Any) -> str | None:
        """Return the text of a value; None for no texts, and for a default that is no value."""
        return self.kind.write(value) if self.kind.allows(value) and value != () else None


def out_of_range(what: str, value: Any, kind: Kind) -> str:
    """Return the text of the error about a value that a kind does not allow."""
    return f"{what} is {value!r:.80}, but must be {kind.allowed}."


def leaf(
    default: Any,
    kind: Kind,
    sentence: str,
    *,
    name: str | None = None,
    short: str | None = None,
    unset: str = "",
    is_secret: bool = False,
) -> Any:
    """Return a field for one setting.

    `sentence` says what it does. Its key is made of the prefix of its group and the name of the field, or is `name`
    alone. `short` is a flag of one letter. `unset` says what happens without a value.
    """
    described = _Described(kind, sentence, name, short, unset, is_secret)
    return field(default=default, repr=not is_secret, metadata={"leaf": described})


def group(cls: type, section: str | None = None, prefix: str | None = None, **defaults: Any) -> Any:
    """Return a field for a dataclass of settings. `section` is its heading in the help, `prefix` its table in TOML.

    `defaults` replace those of the class.
    """
    return field(default_factory=lambda: cls(**defaults), metadata={"group": _Grouped(cls, section, prefix)})


def leaves(root: Any) -> Iterator[Leaf]:
    """Yield the leaves of a tree in its order. `root` is the instance with the defaults."""
    yield from _leaves(root, (), "", None)


def _leaves(at: Any, path: tuple[str, ...], section: str, prefix: str | None) -> Iterator[Leaf]:
    for each in fields(at):
        value, here = getattr(at, each.name), (*path, each.name)
        grouped: _Grouped | None = each.metadata.get("group")
        if grouped is not None:
            yield from _leaves(value, here, grouped.section or section, grouped.prefix or prefix)
        elif described := each.metadata.get("leaf"):
            yield _leaf(each, described, here, value, section, prefix)


def _leaf(
    of: Field[Any], said: _Described, path: tuple[str, ...], default: Any, section: str, prefix: str | None
) -> Leaf:
    name = of.name
    for unit in _UNITS:
        name = name.removesuffix(unit)
    key = said.name or (f"{prefix}." if prefix else "") + name.replace("_", "-")
    return Leaf(path, key, said.kind, default, said.unset, said.sentence, section, said.short, said.is_secret)


def check_fields(settings: Any, what: str) -> None:
    """Raise ConfigError when a value of a dataclass is not allowed, other than a None that is the default.

    For values that come from code, so the error names the field: `what` are the words before its name.
    """
    for each in fields(settings):
        described: _Described | None = each.metadata.get("leaf")
        value = getattr(settings, each.name)
        if described is None or (value is None and each.default is None):
            continue
        if not described.kind.allows(value):
            raise ConfigError(out_of_range(f"{what}{each.name}", value, described.kind))


def with_values(at: Any, values: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> Any:
    """Return a tree with these values by the paths of their leaves. Raises ConfigError when they do not go together."""
    changed = {}
    for each in fields(at):
        here = (*path, each.name)
        if "group" in each.metadata:
            changed[each.name] = with_values(getattr(at, each.name), values, here)
        elif here in values:
            changed[each.name] = values[here]
    return replace(at, **changed)
