"""What a configuration file says: keys become settings, and every mistake is named with its place. Pure.

A key is the flag of a setting without the dashes before it. The settings of the publisher and of the pool have tables,
`[publisher]` and `[pool]`. A table `[queues."orders"]` has the values for handlers of one queue.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from mxworker.cli.config.options import BY_KEY
from mxworker.config.kinds import Duration, Switch, Text, Texts, Whole
from mxworker.config.leaf import Leaf, leaves, out_of_range
from mxworker.config.overrides import AS_IN_CODE
from mxworker.errors import ConfigError
from mxworker.system.printable import foreign

QUEUES = "queues"
_OF_A_QUEUE = {leaf.key: leaf for leaf in leaves(AS_IN_CODE)}
_TABLES = frozenset(key.partition(".")[0] for key in BY_KEY if "." in key)
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")
_ENTRY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


@dataclass(frozen=True, slots=True)
class Document:
    """The settings that a file has."""

    source: str
    """The file, as it is shown to the operator."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The values by the key of their leaf."""
    queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The values for handlers by queue, and then by the key of their leaf."""
    places: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Where each of them stands, by the keys that lead to it."""

    def place_of(self, *path: str) -> str:
        """Return where a value stands."""
        return self.places.get(path, self.source)


def parse(text: str, source: str, directory: PurePath, root: tuple[str, ...] = ()) -> Document | None:
    """Return what a TOML file says in the table `root`, None when it has no such table.

    Relative paths are those of files in `directory`. Raises ConfigError, which names the file, the line, the key, the
    value and what is allowed.
    """
    try:
        table: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for a number of thousands of digits, or deep nesting
        raise ConfigError(
            f"{source} is not valid TOML: {error}.\n"
            '  Texts and durations have quotes: drain-timeout = "30s". Numbers have none: concurrency = 8.'
        ) from error
    for name in root:
        table = table.get(name)
        if table is None:
            return None
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {'.'.join(root)} must be a table, [{'.'.join(root)}].")
    lines = _lines(text)
    return _Reader(source, directory, root, lines).read(table)


class _Reader:
    """Turns the tables of one file into a document."""

    def __init__(
        self, source: str, directory: PurePath, root: tuple[str, ...], lines: Mapping[tuple[str, ...], int]
    ) -> None:
        self._source = source
        self._directory = directory
        self._root = root
        self._lines = lines
        self._places: dict[tuple[str, ...], str] = {}

    def read(self, table: Mapping[str, Any]) -> Document:
        """Return the document of a table."""
        values: dict[str, Any] = {}
        queues: dict[str, dict[str, Any]] = {}
        for key, value in table.items():
            if key == QUEUES and not isinstance(value, str | list):  # a list is that of the queues to consume
                queues = self._queues(value)
            elif key in _TABLES and isinstance(value, dict):
                for inner, each in value.items():
                    values[f"{key}.{inner}"] = self._value(BY_KEY, f"{key}.{inner}", each, (key, inner))
            else:
                values[key] = self._value(BY_KEY, key, value, (key,))
        return Document(self._source, values, queues, self._places)

    def _queues(self, tables: Any) -> dict[str, dict[str, Any]]:
        if not isinstance(tables, dict) or not all(isinstance(each, dict) for each in tables.values()):
            raise ConfigError(f'{self._at((QUEUES,))}: a queue has a table of its own, [{QUEUES}."orders"].')
        return {
            queue: {key: self._value(_OF_A_QUEUE, key, value, (QUEUES, queue, key)) for key, value in table.items()}
            for queue, table in tables.items()
        }

    def _value(self, known: Mapping[str, Leaf], key: str, value: Any, path: tuple[str, ...]) -> Any:
        place = self._places[path] = self._at(path)
        leaf = known.get(key)
        if leaf is None:
            raise ConfigError(f"{place}: {_unknown(known, key, len(path) > 2)}")
        meant = self._meant(leaf, value, f"{place}: {key}")
        if not leaf.kind.allows(meant):
            raise ConfigError(f"{place}: {out_of_range(key, value, leaf.kind)}")
        return meant

    def _meant(self, leaf: Leaf, value: Any, what: str) -> Any:
        """Return the value of a setting that a value of TOML means, whatever its range."""
        kind = leaf.kind
        match value:
            case str() if isinstance(kind, Texts):
                return (value,)
            case list() if isinstance(kind, Texts):
                return tuple(value)
            case str() if isinstance(kind, Text) and kind.is_path and value:
                return str(self._directory / value)
            case str() if not isinstance(kind, Whole | Switch):
                try:
                    return kind.parse(value)
                except ConfigError as error:
                    raise ConfigError(f"{what}: {error}") from None
            case int() if isinstance(kind, Duration) and not isinstance(value, bool):
                return float(value)
        return value

    def _at(self, path: tuple[str, ...]) -> str:
        line = self._lines.get((*self._root, *path))
        return self._source if line is None else f"{self._source}, line {line}"


def _unknown(known: Mapping[str, Leaf], key: str, is_of_a_queue: bool) -> str:
    """Return what to say about a key that is no setting."""
    from difflib import get_close_matches  # loaded for a mistake only

    what = f"there is no setting '{foreign(key)}'" + (" of a queue" if is_of_a_queue else "")
    ends: dict[str, str] = {}
    for name in known:
        ends.setdefault(name.rpartition(".")[2], name)
    written = key.replace("_", "-").lower()
    end = written.rpartition(".")[2]
    if end in ends:
        nearest = [ends[end]]
    else:
        nearest = get_close_matches(written, known, 1) or [ends[each] for each in get_close_matches(end, ends, 1)]
    if nearest:
        return f"{what}; did you mean '{nearest[0]}'?"
    if is_of_a_queue:
        return f"{what}; a queue has {', '.join(known)}."
    return f"{what}.  'mxworker config defaults' shows all settings."


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the first line of each key and of each table by its path, as far as that can be seen line by line."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        path = table
        if header := _HEADER.fullmatch(line):
            path = table = _path(f"[{header[1]}]") or table
        elif entry := _ENTRY.match(line):
            path = (*table, *_path(f"{entry[1]} = 0"))
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], number)
    return lines


def _path(line: str) -> tuple[str, ...]:
    """Return the path that a header or an entry of TOML has, () when it is none."""
    try:
        found: Any = tomllib.loads(line)
    except (ValueError, RecursionError):
        return ()
    path = []
    while isinstance(found, dict) and found:
        ((name, found),) = found.items()
        path.append(name)
    return tuple(path)
