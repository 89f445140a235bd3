"""The command `mxworker top`.

Exit codes: 0 done; 1 the service does not answer; 2 it is not clear which service is meant.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from mxworker.cli.asking import fail, of_service, socket_of
from mxworker.cli.help import Command
from mxworker.cli.options import DURATION
from mxworker.errors import ExitCode, MxWorkerError

if TYPE_CHECKING:
    from mxworker.cli.top.watch import Watch

_LEAST_S, _MOST_S = 0.2, 3600.0


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.OK: "the figures were shown",
        ExitCode.RUNTIME: "the service does not answer",
        ExitCode.USAGE: "a usage error, or it is not clear which service is meant",
    },
    examples=("mxworker top", "mxworker top --name shop/app:handlers --once", "mxworker top --once --json"),
)
@of_service
@click.option("--once", is_flag=True, help="Show the figures once, as plain text. The rates are those of one interval.")
@click.option("--json", "as_json", is_flag=True, help="With --once: show the figures as /status.json does.")
@click.option("--interval", type=DURATION, default="1s", show_default=True, help="The time between two looks.")
def top(name: str | None, control_socket: str | None, once: bool, as_json: bool, interval: float) -> None:
    """Watch the handlers and workers of a running service.

    It also shows what is wrong, why, and what to do.

    Without a terminal, as in a pipe, the figures are shown once. NO_COLOR=1 turns colors off.
    """
    from mxworker.cli.top.watch import Watch

    if not _LEAST_S <= interval <= _MOST_S:
        raise click.UsageError(f"--interval must be from {_LEAST_S:g}s to {_MOST_S:g}s.")
    is_live = not once and not as_json and sys.stdout.isatty()
    watch = Watch(socket_of(name, control_socket), max(1.0, interval))
    try:
        if is_live:
            from mxworker.cli.top.live import show

            show(watch, interval)
        else:
            click.echo(_once(watch, interval, as_json))
    except MxWorkerError as error:
        fail(str(error))


def _once(watch: Watch, interval_s: float, as_json: bool) -> str:
    """Return the figures after two looks, since a rate needs two."""
    from mxworker.cli.top.frame import frame

    watch.first()
    time.sleep(interval_s)
    sight = watch.look()
    if sight.silence is not None:
        fail(sight.silence.why)
    if as_json:
        return json.dumps(sight.view, indent=2).replace("\x7f", "\\u007f")
    from mxworker.cli.top.screen import plain

    return plain(frame(sight.view, None, None))
