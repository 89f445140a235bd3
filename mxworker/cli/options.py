"""A parameter type of options that are no settings, and the directory in which a command works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mxworker.config.units import parse_duration_s
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


DURATION = Duration()


def present_directory() -> Path:
    """Return the current directory, or the root directory when the current one was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")
