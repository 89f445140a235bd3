"""The arguments and options that choose letters, for all commands of `mxworker dlq`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mxworker.cli.broker_options import of_broker
from mxworker.cli.help import Option
from mxworker.errors import ConfigError

if TYPE_CHECKING:
    from mxworker.letters.filters import Filters

as_json_lines = click.option(
    "--json", "json_wanted", is_flag=True, help="Write JSON instead of text, an object on each line."
)
without_question = click.option("--yes", is_flag=True, help="Do it, without a question. The default is a dry run.")

_FILTERS = "Filters"
_LETTERS = "Letters"


def of_letters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its argument QUEUE, and the options that choose a queue, letters of it, and the broker."""
    for each in reversed((click.argument("queue"), *_QUEUE_OPTIONS, *_FILTER_OPTIONS)):
        command = each(command)
    return of_broker(command)


def _option(flag: str, section: str, **values: Any) -> Callable[[Any], Any]:
    return click.option(flag, cls=Option, section=section, **values)


_QUEUE_OPTIONS = (
    _option(
        "--quarantine",
        _LETTERS,
        is_flag=True,
        help="The letters of QUEUE.quarantine instead: messages that have killed workers.",
    ),
    _option(
        "--from",
        _LETTERS,
        metavar="NAME",
        show_default="QUEUE.dlq",
        help="The queue that holds the letters of QUEUE.",
    ),
)
_FILTER_OPTIONS = (
    _option(
        "--handler",
        _FILTERS,
        multiple=True,
        metavar="NAME",
        show_default="all",
        help="Letters of this handler. Repeat the option for several.",
    ),
    _option(
        "--reason",
        _FILTERS,
        multiple=True,
        metavar="REASON",
        show_default="all",
        help="Letters with this reason, as stats shows it. Repeat the option for several.",
    ),
    _option(
        "--error",
        _FILTERS,
        metavar="TEXT",
        show_default="all",
        help="Letters with this error type, or with this text in their error.",
    ),
    _option(
        "--since",
        _FILTERS,
        metavar="TIME",
        show_default="the first",
        help="Letters that died at this time or later: 2h for two hours ago, or 2026-11-29T08:30, in UTC.",
    ),
    _option(
        "--until",
        _FILTERS,
        metavar="TIME",
        show_default="the last",
        help="Letters that died before this time.",
    ),
    _option(
        "--id",
        _FILTERS,
        multiple=True,
        metavar="ID",
        show_default="all",
        help="The letter with this message id, or with this key as list shows it. Repeat the option for several.",
    ),
    _option(
        "--header",
        _FILTERS,
        multiple=True,
        metavar="NAME=VALUE",
        show_default="all",
        help="Letters with this header. Repeat the option for several, which must all be there.",
    ),
)


def source_of(queue: str, flags: dict[str, Any]) -> str:
    """Return the name of the queue that holds the letters. Raises UsageError."""
    if flags["quarantine"] and flags["from"]:
        raise click.UsageError("--quarantine and --from exclude each other.")
    return str(flags["from"] or f"{queue}.{'quarantine' if flags['quarantine'] else 'dlq'}")


def filters_of(flags: dict[str, Any]) -> Filters:
    """Return the filters that were asked for. Raises UsageError."""
    from mxworker.letters.filters import Filters, parse_header, parse_moment

    now = time.time()
    try:
        return Filters(
            handlers=flags["handler"],
            reasons=flags["reason"],
            error=flags["error"],
            since=None if flags["since"] is None else parse_moment(flags["since"], now),
            until=None if flags["until"] is None else parse_moment(flags["until"], now),
            ids=flags["id"],
            headers=tuple(parse_header(text) for text in flags["header"]),
        )
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
