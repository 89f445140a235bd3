"""The commands that ask a running service: `status` and `ctl`.

Exit codes: 0 done, 1 refused, not so, or nobody answers, 2 it is not clear which service is meant.

Whoever made the socket may answer anything: what is shown of an answer is `foreign` text.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from mxworker.cli.help import Command, Group, option
from mxworker.cli.options import present_directory
from mxworker.control import protocol
from mxworker.errors import ConfigError, ExitCode, MxWorkerError
from mxworker.system.printable import by_line, foreign

_ANSWER_WITHIN_S = 10.0
_HEALTHY_WITHIN_S = 2.0
_LOOK_AGAIN_S = 0.2
_NOTE_LINES = 100


def _of_service(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which service is meant."""
    by_path = option(
        "--control-socket", metavar="PATH", help="The socket on which the service takes requests, instead of a name."
    )
    by_name = option(
        "--name",
        show_default="the one of the present directory",
        help="The name of the service.",
    )
    named: Callable[..., Any] = by_name(by_path(command))
    return named


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.OK: "it is as asked",
        ExitCode.RUNTIME: "it is not healthy, or not ready, or no service answers",
        ExitCode.USAGE: "usage, or it is not clear which service is meant",
    },
    examples=("mxworker status", "mxworker status --name shop/app:handlers --json"),
)
@_of_service
@click.option("--json", "as_json", is_flag=True, help="Show the status as one JSON object.")
@click.option("--healthy", is_flag=True, help="Say only whether the service is healthy, also by the exit code.")
@click.option("--ready", is_flag=True, help="Say only whether the service is healthy and enough workers consume.")
def status(name: str | None, control_socket: str | None, as_json: bool, healthy: bool, ready: bool) -> None:
    """Show the state of a running service and of its workers."""
    from mxworker.control.status_table import render

    within_s = _HEALTHY_WITHIN_S if healthy or ready else _ANSWER_WITHIN_S
    answer = _asked(protocol.Status(), name, control_socket, within_s)
    with _understood():
        found = answer["status"]
        if healthy or ready:
            problem = found["unhealthy_because"] or (ready and found["unready_because"])
            click.echo(foreign(problem) if problem else "ready" if ready else "healthy")
            sys.exit(ExitCode.RUNTIME if problem else ExitCode.OK)
        click.echo(_as_json(found) if as_json else render(found))


@click.group(
    cls=Group, examples=("mxworker ctl reload", "mxworker ctl --name shop/app:handlers stop", "mxworker ctl scale 4")
)
@_of_service
def ctl(name: str | None, control_socket: str | None) -> None:
    """Steer a running service."""


@ctl.command(examples=("mxworker ctl reload",))
@_of_service
@click.option("--no-wait", is_flag=True, help="Do not wait until the new workers serve.")
def reload(name: str | None, control_socket: str | None, no_wait: bool) -> None:
    """Replace the workers one by one to load new code."""
    answer = _asked(protocol.Reload(), name, control_socket)
    with _understood():
        if no_wait:
            click.echo(f"Generation {foreign(answer['generation'])} is on its way.")
            return
        while (outcome := _asked(protocol.Status(), name, control_socket)["status"]["reload"])["state"] == "rolling":
            time.sleep(_LOOK_AGAIN_S)
        generation = foreign(outcome["generation"])
        if outcome["state"] == "refused":
            # What a worker said has lines of its own; indented, none of them looks like one of ours.
            note = "".join(f"  {foreign(line)}\n" for line in outcome["note"].split("\n")[:_NOTE_LINES] if line)
            _fail(
                f"generation {generation} was refused: {foreign(outcome['why'])}\n{note}  What served before goes on."
            )
        click.echo(f"Generation {generation} serves.")


@ctl.command(examples=("mxworker ctl pause orders",))
@click.argument("queue", required=False)
@_of_service
def pause(queue: str | None, name: str | None, control_socket: str | None) -> None:
    """Stop consuming QUEUE, or all queues. Running handlers finish."""
    _say_paused(_asked(protocol.Pause(queue), name, control_socket))


@ctl.command(examples=("mxworker ctl resume orders",))
@click.argument("queue", required=False)
@_of_service
def resume(queue: str | None, name: str | None, control_socket: str | None) -> None:
    """Consume QUEUE again, or all queues.

    A queue that was paused by its name is resumed by its name.
    """
    _say_paused(_asked(protocol.Resume(queue), name, control_socket))


@ctl.command(examples=("mxworker ctl scale 4",))
@click.argument("workers", type=int)
@_of_service
def scale(workers: int, name: str | None, control_socket: str | None) -> None:
    """Change the number of workers to WORKERS."""
    answer = _asked(protocol.Scale(workers), name, control_socket)
    with _understood():
        click.echo(f"From {foreign(answer['workers_before'])} to {foreign(answer['workers'])} workers.")


@ctl.command(examples=("mxworker ctl stop",))
@_of_service
def stop(name: str | None, control_socket: str | None) -> None:
    """Drain the service: running handlers finish, then it ends."""
    _asked(protocol.Stop(), name, control_socket)
    click.echo("The service drains.")


@ctl.command(examples=("mxworker ctl dump",))
@_of_service
def dump(name: str | None, control_socket: str | None) -> None:
    """Log the handlers that run now, with their stacks."""
    _asked(protocol.Dump(), name, control_socket)
    click.echo("The workers write it to the log of the service.")


@ctl.command("log-level", examples=("mxworker ctl log-level debug",))
@click.argument("level", type=click.Choice(protocol.LOG_LEVELS))
@_of_service
def log_level(level: str, name: str | None, control_socket: str | None) -> None:
    """Change the log level to debug, info, warning or error."""
    _asked(protocol.LogLevel(level), name, control_socket)
    click.echo(f"Logs from {level} on.")


def _say_paused(answer: dict[str, Any]) -> None:
    from mxworker.control.status_table import paused_text

    with _understood():
        click.echo(f"Paused now: {foreign(paused_text(answer['paused'])) or 'nothing'}.")


def _as_json(found: Any) -> str:
    """Return JSON in ASCII, without the one control character that JSON itself lets stand there."""
    return json.dumps(found, indent=2).replace("\x7f", "\\u007f")


@contextmanager
def _understood() -> Iterator[None]:
    """End the command when an answer is not what a service of this version says."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        _fail("what answers is no service of mxworker, or one of another version: its answer makes no sense.")


def _asked(
    request: protocol.Request, name: str | None, control_socket: str | None, within_s: float = _ANSWER_WITHIN_S
) -> dict[str, Any]:
    """Return the service's answer; end the command when there is none, or a refusal."""
    from mxworker.control.client import ask, find
    from mxworker.control.socket_directories import to_look_in

    places = tuple(to_look_in([*protocol.directories(os.environ, os.geteuid()), protocol.SYSTEM_DIRECTORY]))
    name, control_socket = _said("name", name), _said("control_socket", control_socket)
    try:
        path = (
            Path(control_socket)
            if control_socket is not None
            else find(places, name or None, protocol.as_text(present_directory()))
        )
        return ask(path, request, time.monotonic() + within_s)
    except ConfigError as error:
        _fail(str(error), ExitCode.USAGE)
    except MxWorkerError as error:
        _fail(str(error))


def _said(option: str, value: str | None) -> str | None:
    """Return what an option says, here or before the command; what was typed counts more than a variable."""
    here = click.get_current_context()
    for context in filter(None, (here, here.parent)):
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            return str(context.params[option])
    return value


def _fail(text: str, code: ExitCode = ExitCode.RUNTIME) -> NoReturn:
    click.echo(by_line(f"Error: {text}"), err=True)
    sys.exit(code)
