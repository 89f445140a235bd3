"""The parameter types of the options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mxworker.config.bounds import MAX_WORKERS
from mxworker.config.units import parse_duration_s, parse_size_bytes
from mxworker.errors import ConfigError

Number = TypeVar("Number", bound=float)


class Quantity(click.ParamType[Number]):
    """A number that is written with its unit."""

    def __init__(self, name: str, parse: Callable[[str], Number], kind: type[Number]) -> None:
        """`parse` returns a `kind`, or raises ConfigError."""
        self.name = name
        self._parse = parse
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Number:
        """Return the number, or fail with the text of the ConfigError."""
        if isinstance(value, self._kind):
            return value
        try:
            return self._parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


DURATION = Quantity("duration", parse_duration_s, float)
"""A duration such as 250ms, 30s, 5m; seconds as a float."""
SIZE = Quantity("size", parse_size_bytes, int)
"""A size such as 512MB or 1GiB; bytes as an int."""


class Workers(click.ParamType["int | None"]):
    """A number of workers, or `auto`: one for each CPU that this process may use."""

    name = "n|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for auto."""
        if value is None or value == "auto":
            return None
        if not str(value).isdigit() or not 1 <= int(value) <= MAX_WORKERS:
            self.fail(f"'{value}' is neither 'auto' nor a number from 1 to {MAX_WORKERS}.", param, ctx)
        return int(value)


def present_directory() -> Path:
    """Return the current directory, or the root directory when the current one was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")
