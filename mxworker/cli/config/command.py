"""`mxworker config`: the effective settings with their sources, and a file to start from."""

from __future__ import annotations

import json
from typing import Any

import click

from mxworker.cli.asking import fail
from mxworker.cli.config import sources
from mxworker.cli.config.options import LEAVES, options_of
from mxworker.cli.config.sources import configuration_options
from mxworker.cli.help import Command, Group
from mxworker.errors import ConfigError, ExitCode
from mxworker.system.printable import foreign

_EXIT_CODES = {ExitCode.OK: "shown", ExitCode.USAGE: "a setting, or a configuration file, is wrong"}


@click.group(
    cls=Group,
    exit_codes=_EXIT_CODES,
    examples=("mxworker config show", "mxworker config defaults > mxworker.toml"),
)
def config() -> None:
    """Show settings and their sources."""


@config.command(
    cls=Command,
    params=[*options_of(LEAVES), *configuration_options()],
    exit_codes=_EXIT_CODES,
    examples=("mxworker config show", "mxworker config show --profile throughput --json"),
    epilog="Flags and variables are those of 'mxworker run', and count as they do there. What the code of an "
    "application sets is not shown, as no application is loaded: it takes the place of defaults.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def show(as_json: bool, **flags: Any) -> None:
    """Print every setting with its value and its source."""
    from mxworker.cli.config.rows import rows_of

    try:
        sources.check()
    except ConfigError as error:
        fail(str(error), ExitCode.USAGE)
    rows = list(rows_of(flags))
    if as_json:
        click.echo(json.dumps([row.as_fields() for row in rows]))
        return
    shown = [(foreign(row.key), foreign("-" if row.value is None else row.value), foreign(row.source)) for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    for key, value, source in shown:
        click.echo(f"{key:<{widths[0]}}  {value:<{min(widths[1], 40)}}  {source}")


@config.command(
    cls=Command,
    exit_codes={ExitCode.OK: "printed", ExitCode.USAGE: "a usage error"},
    examples=("mxworker config defaults > mxworker.toml",),
)
def defaults() -> None:
    """Print a configuration file with all defaults."""
    from mxworker.cli.config.defaults import defaults as text

    click.echo(text(), nl=False)
