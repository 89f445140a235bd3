"""The options of commands that connect to the broker themselves, and how such a command runs and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from mxworker.brokers import Brokers
from mxworker.cli import settings
from mxworker.cli.asking import fail
from mxworker.cli.config import sources
from mxworker.cli.config.options import BY_KEY, options_of, with_options
from mxworker.cli.config.sources import configuration_options
from mxworker.cli.settings import URL, URL_FILE
from mxworker.errors import ConfigError, ExitCode, MxWorkerError

_LEAVES = [
    BY_KEY[key]
    for key in ("broker-url", "broker-url-file", "broker-heartbeat", "tls-ca", "tls-cert", "tls-key", "connect-wait")
]
EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.RUNTIME: "not all was done; the text says what, and why",
    ExitCode.USAGE: "a usage or configuration error, such as a missing broker URL",
    ExitCode.BROKER: "the broker refused the request or was unreachable",
    ExitCode.FORCED: "interrupted by Ctrl-C",
}

T = TypeVar("T")


def of_broker(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose the broker. They reach it as the keyword `broker_url` and others."""
    return with_options([*options_of(_LEAVES), *configuration_options()])(command)


def brokers_of(ctx: click.Context, flags: dict[str, Any]) -> Brokers:
    """Return the brokers that were asked for, and set up the log. Exit with an error when they cannot be used.

    The URL is hidden from other users from then on.
    """
    from mxworker.system.log import set_up

    settings.hide_urls(f"mxworker: {ctx.command_path.removeprefix('mxworker ')}")
    set_up("warning", "text")
    try:
        sources.check()
        if settings.url_source(flags) is None:
            raise ConfigError(
                "no broker URL.\n"
                f"  Try:  {ctx.command_path} ... --broker-url amqp://user:password@host/\n"
                f"  or set {URL}, or let {URL_FILE} name a file that holds it."
            )
        return settings.checked_brokers(ctx, {**flags, "broker_shuffle": False})
    except ConfigError as error:
        fail(str(error), error.exit_code)


def ended(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command in an event loop, and return its result; exit with an error when it raises one of ours.

    A reader of the output that has gone, as `head` does, ends the command without a text.
    """
    import asyncio  # takes 25 ms, also of the commands that do not need it

    try:
        return asyncio.run(work)
    except MxWorkerError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        sys.exit(ExitCode.RUNTIME)
    except OSError as error:
        fail(f"{error.strerror or error}.")
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(ExitCode.FORCED)
