"""`mxworker config`: the effective settings with their sources, and a file to start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from mxworker.cli.asking import fail
from mxworker.cli.config import sources
from mxworker.cli.config.options import BY_KEY, LEAVES, options_of
from mxworker.cli.config.sources import configuration_options
from mxworker.cli.help import Command, Group
from mxworker.config.leaf import Leaf
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
    try:
        sources.check()
    except ConfigError as error:
        fail(str(error), ExitCode.USAGE)
    rows = list(_rows(flags))
    if as_json:
        click.echo(json.dumps([{"key": key, "value": value, "source": source} for key, value, source in rows]))
        return
    shown = [(foreign(key), foreign("-" if value is None else value), foreign(source)) for key, value, source in rows]
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


def _rows(flags: dict[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    """Yield key, value and source of each setting; the value is None when there is none."""
    for leaf in LEAVES:
        yield leaf.key, _shown(leaf, flags[leaf.name]), sources.source_of(leaf)
    for document in sources.sources().documents:
        for queue, values in document.queues.items():
            for key, value in values.items():
                place = document.place_of("queues", queue, key)
                yield f'queues."{queue}".{key}', BY_KEY[key].kind.write(value), place


def _shown(leaf: Leaf, value: Any) -> str | None:
    if leaf.is_secret and value:
        return leaf.kind.write(tuple(map(_masked, value)))
    text = leaf.text_of(value)
    return f"({leaf.unset})" if text is None and leaf.unset else text


def _masked(url: str) -> str:
    from mxworker.brokers import BrokerUrl

    try:
        return str(BrokerUrl.parse(url))
    except ConfigError:
        return "***"
