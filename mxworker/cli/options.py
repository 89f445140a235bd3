"""The parameter types of the options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mxworker.config import MAX_WORKERS, parse_duration_s, parse_size_bytes
from mxworker.errors import ConfigError


class Duration(click.ParamType[float]):
    """A duration such as 250ms, 30s, 5m; seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or fail with the text of the ConfigError."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration_s(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[int]):
    """A size such as 512MB or 1GiB; bytes as an int."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes, or fail with the text of the ConfigError."""
        if isinstance(value, int):
            return value
        try:
            return parse_size_bytes(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


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
