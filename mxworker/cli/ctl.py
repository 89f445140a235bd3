"""The commands that send requests to a running service: `status` and `ctl`.

Exit codes: 0 done; 1 refused, not healthy or ready, or no answer; 2 it is not clear which service is meant.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from mxworker.cli.asking import ANSWER_WITHIN_S, asked, fail, of_service, understood
from mxworker.cli.help import Command, Group
from mxworker.cli.profile import profile
from mxworker.config.bounds import LOG_LEVELS
from mxworker.control import protocol
from mxworker.errors import ExitCode
from mxworker.system.printable import foreign

_HEALTHY_WITHIN_S = 2.0
_LOOK_AGAIN_S = 0.2
_NOTE_LINES = 100


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.OK: "the status was shown, or the service is healthy or ready",
        ExitCode.RUNTIME: "the service is not healthy or not ready, or does not answer",
        ExitCode.USAGE: "a usage error, or it is not clear which service is meant",
    },
    examples=("mxworker status", "mxworker status --name shop/app:handlers --json"),
)
@of_service
@click.option("--json", "as_json", is_flag=True, help="Show the status as one JSON object.")
@click.option("--healthy", is_flag=True, help="Only check that the service is healthy; see the exit codes.")
@click.option("--ready", is_flag=True, help="Only check that the service is healthy and enough workers consume.")
def status(name: str | None, control_socket: str | None, as_json: bool, healthy: bool, ready: bool) -> None:
    """Show the state of a running service and of its workers."""
    from mxworker.control.status_table import render

    within_s = _HEALTHY_WITHIN_S if healthy or ready else ANSWER_WITHIN_S
    answer = asked(protocol.Status(), name, control_socket, within_s)
    with understood():
        found = answer["status"]
        if healthy or ready:
            problem = found["unhealthy_because"] or (ready and found["unready_because"])
            click.echo(foreign(problem) if problem else "ready" if ready else "healthy")
            sys.exit(ExitCode.RUNTIME if problem else ExitCode.OK)
        click.echo(_as_json(found) if as_json else render(found))


@click.group(
    cls=Group, examples=("mxworker ctl reload", "mxworker ctl --name shop/app:handlers stop", "mxworker ctl scale 4")
)
@of_service
def ctl(name: str | None, control_socket: str | None) -> None:
    """Control a running service."""


@ctl.command(examples=("mxworker ctl reload",))
@of_service
@click.option("--no-wait", is_flag=True, help="Do not wait until the new workers consume.")
def reload(name: str | None, control_socket: str | None, no_wait: bool) -> None:
    """Replace the workers one by one to load new code."""
    answer = asked(protocol.Reload(), name, control_socket)
    with understood():
        if no_wait:
            click.echo(f"The reload to generation {foreign(answer['generation'])} has begun.")
            return
        while (outcome := asked(protocol.Status(), name, control_socket)["status"]["reload"])["state"] == "rolling":
            time.sleep(_LOOK_AGAIN_S)
        generation = foreign(outcome["generation"])
        if outcome["state"] == "refused":
            # The error of a worker may have several lines. They are indented, so that none looks like one of ours.
            note = "".join(f"  {foreign(line)}\n" for line in outcome["note"].split("\n")[:_NOTE_LINES] if line)
            fail(f"generation {generation} was refused: {foreign(outcome['why'])}\n{note}  The previous workers go on.")
        click.echo(f"All workers run generation {generation} now.")


@ctl.command(examples=("mxworker ctl pause orders",))
@click.argument("queue", required=False)
@of_service
def pause(queue: str | None, name: str | None, control_socket: str | None) -> None:
    """Stop consuming QUEUE, or all queues. Running handlers finish."""
    _say_paused(asked(protocol.Pause(queue), name, control_socket))


@ctl.command(examples=("mxworker ctl resume orders",))
@click.argument("queue", required=False)
@of_service
def resume(queue: str | None, name: str | None, control_socket: str | None) -> None:
    """Consume QUEUE again, or all queues.

    A queue that was paused by its name is resumed by its name.
    """
    _say_paused(asked(protocol.Resume(queue), name, control_socket))


@ctl.command(examples=("mxworker ctl scale 4",))
@click.argument("workers", type=int)
@of_service
def scale(workers: int, name: str | None, control_socket: str | None) -> None:
    """Change the number of workers to WORKERS."""
    answer = asked(protocol.Scale(workers), name, control_socket)
    with understood():
        click.echo(f"From {foreign(answer['workers_before'])} to {foreign(answer['workers'])} workers.")


@ctl.command(examples=("mxworker ctl stop",))
@of_service
def stop(name: str | None, control_socket: str | None) -> None:
    """Drain the service: running handlers finish, then it exits."""
    asked(protocol.Stop(), name, control_socket)
    click.echo("The service is draining.")


@ctl.command(examples=("mxworker ctl dump",))
@of_service
def dump(name: str | None, control_socket: str | None) -> None:
    """Log the running handlers with their stacks."""
    asked(protocol.Dump(), name, control_socket)
    click.echo("The workers write their handlers and stacks to the log of the service.")


@ctl.command("log-level", examples=("mxworker ctl log-level debug",))
@click.argument("level", type=click.Choice(LOG_LEVELS))
@of_service
def log_level(level: str, name: str | None, control_socket: str | None) -> None:
    """Change the log level to debug, info, warning or error."""
    asked(protocol.LogLevel(level), name, control_socket)
    click.echo(f"The log level is {level} now.")


ctl.add_command(profile)


def _say_paused(answer: dict[str, Any]) -> None:
    from mxworker.control.status_table import paused_text

    with understood():
        click.echo(f"Paused now: {foreign(paused_text(answer['paused'])) or 'nothing'}.")


def _as_json(found: Any) -> str:
    """Return JSON in ASCII, with DEL escaped too, the only control character that JSON leaves as it is."""
    return json.dumps(found, indent=2).replace("\x7f", "\\u007f")
