"""The commands that send requests to a running service: `status` and `ctl`.

Exit codes: 0 done; 1 refused, not healthy or ready, or no answer; 2 it is not clear which service is meant.

Another program may own the socket and answer anything, so answers are shown through `foreign`.
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
from mxworker.config import LOG_LEVELS
from mxworker.control import protocol
from mxworker.errors import ConfigError, ExitCode, MxWorkerError
from mxworker.system.printable import by_line, foreign

_ANSWER_WITHIN_S = 10.0
_HEALTHY_WITHIN_S = 2.0
_LOOK_AGAIN_S = 0.2
_NOTE_LINES = 100


def _of_service(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose the service."""
    by_path = option("--control-socket", metavar="PATH", help="The control socket of the service, instead of its name.")
    by_name = option(
        "--name",
        show_default="the service of the current directory",
        help="The name of the service.",
    )
    named: Callable[..., Any] = by_name(by_path(command))
    return named


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.OK: "the status was shown, or the service is healthy or ready",
        ExitCode.RUNTIME: "the service is not healthy or not ready, or does not answer",
        ExitCode.USAGE: "a usage error, or it is not clear which service is meant",
    },
    examples=("mxworker status", "mxworker status --name shop/app:handlers --json"),
)
@_of_service
@click.option("--json", "as_json", is_flag=True, help="Show the status as one JSON object.")
@click.option("--healthy", is_flag=True, help="Only check that the service is healthy; see the exit codes.")
@click.option("--ready", is_flag=True, help="Only check that the service is healthy and enough workers consume.")
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
    """Control a running service."""


@ctl.command(examples=("mxworker ctl reload",))
@_of_service
@click.option("--no-wait", is_flag=True, help="Do not wait until the new workers consume.")
def reload(name: str | None, control_socket: str | None, no_wait: bool) -> None:
    """Replace the workers one by one to load new code."""
    answer = _asked(protocol.Reload(), name, control_socket)
    with _understood():
        if no_wait:
            click.echo(f"The reload to generation {foreign(answer['generation'])} has begun.")
            return
        while (outcome := _asked(protocol.Status(), name, control_socket)["status"]["reload"])["state"] == "rolling":
            time.sleep(_LOOK_AGAIN_S)
        generation = foreign(outcome["generation"])
        if outcome["state"] == "refused":
            # The error of a worker may have several lines. They are indented, so that none looks like one of ours.
            note = "".join(f"  {foreign(line)}\n" for line in outcome["note"].split("\n")[:_NOTE_LINES] if line)
            _fail(
                f"generation {generation} was refused: {foreign(outcome['why'])}\n{note}  The previous workers go on."
            )
        click.echo(f"All workers run generation {generation} now.")


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
    """Drain the service: running handlers finish, then it exits."""
    _asked(protocol.Stop(), name, control_socket)
    click.echo("The service is draining.")


@ctl.command(examples=("mxworker ctl dump",))
@_of_service
def dump(name: str | None, control_socket: str | None) -> None:
    """Log the running handlers with their stacks."""
    _asked(protocol.Dump(), name, control_socket)
    click.echo("The workers write their handlers and stacks to the log of the service.")


@ctl.command("log-level", examples=("mxworker ctl log-level debug",))
@click.argument("level", type=click.Choice(LOG_LEVELS))
@_of_service
def log_level(level: str, name: str | None, control_socket: str | None) -> None:
    """Change the log level to debug, info, warning or error."""
    _asked(protocol.LogLevel(level), name, control_socket)
    click.echo(f"The log level is {level} now.")


def _say_paused(answer: dict[str, Any]) -> None:
    from mxworker.control.status_table import paused_text

    with _understood():
        click.echo(f"Paused now: {foreign(paused_text(answer['paused'])) or 'nothing'}.")


def _as_json(found: Any) -> str:
    """Return JSON in ASCII, with DEL escaped too, the only control character that JSON leaves as it is."""
    return json.dumps(found, indent=2).replace("\x7f", "\\u007f")


@contextmanager
def _understood() -> Iterator[None]:
    """Exit with an error when an answer is not one of a service of this version."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        _fail("the answer cannot be understood: it comes from another program, or from another version of mxworker.")


def _asked(
    request: protocol.Request, name: str | None, control_socket: str | None, within_s: float = _ANSWER_WITHIN_S
) -> dict[str, Any]:
    """Return the answer of the service; exit with an error when it refuses or does not answer."""
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
    """Return the value of an option of the command or of its group. A typed value wins over an environment variable."""
    here = click.get_current_context()
    for context in filter(None, (here, here.parent)):
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            return str(context.params[option])
    return value


def _fail(text: str, code: ExitCode = ExitCode.RUNTIME) -> NoReturn:
    click.echo(by_line(f"Error: {text}"), err=True)
    sys.exit(code)
