"""Asking a running service over its control socket, for all commands that do.

Another program may own the socket and answer anything, so answers are shown through `foreign`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from mxworker.cli.help import option
from mxworker.cli.options import present_directory
from mxworker.control import protocol
from mxworker.errors import ConfigError, ExitCode, MxWorkerError
from mxworker.system.printable import by_line

ANSWER_WITHIN_S = 10.0


def of_service(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose the service."""
    by_path = option("--control-socket", metavar="PATH", help="The control socket of the service, instead of its name.")
    by_name = option(
        "--name",
        show_default="the service of the current directory",
        help="The name of the service.",
    )
    named: Callable[..., Any] = by_name(by_path(command))
    return named


def asked(
    request: protocol.Request, name: str | None, control_socket: str | None, within_s: float = ANSWER_WITHIN_S
) -> dict[str, Any]:
    """Return the answer of the service; exit with an error when it refuses or does not answer."""
    from mxworker.control.client import ask

    path = socket_of(name, control_socket)
    try:
        return ask(path, request, time.monotonic() + within_s)
    except MxWorkerError as error:
        fail(str(error))


def socket_of(name: str | None, control_socket: str | None) -> Path:
    """Return the control socket of the service; exit with an error when it is not clear which service is meant."""
    from mxworker.control.client import find
    from mxworker.control.socket_directories import to_look_in

    places = tuple(to_look_in([*protocol.directories(os.environ, os.geteuid()), protocol.SYSTEM_DIRECTORY]))
    name, control_socket = _said("name", name), _said("control_socket", control_socket)
    if not name and control_socket is None:
        name, control_socket = _configured()
    if control_socket is not None:
        return Path(control_socket)
    try:
        return find(places, name or None, protocol.as_text(present_directory()))
    except ConfigError as error:
        fail(str(error), ExitCode.USAGE)
    except MxWorkerError as error:
        fail(str(error))


def _configured() -> tuple[str | None, str | None]:
    """Return the name and the control socket that the configuration file of this directory gives to its service.

    A file that is wrong is told of and passed over, so that a probe does not fail for it while the service runs.
    """
    from mxworker.cli.config.sources import of_directory

    try:
        document = of_directory()
    except ConfigError as error:
        click.echo(by_line(f"Warning: {error}"), err=True)
        return None, None
    values = {} if document is None else document.values
    return values.get("name"), values.get("control-socket")


@contextmanager
def understood() -> Iterator[None]:
    """Exit with an error when an answer is not one of a service of this version."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        fail("the answer cannot be understood: it comes from another program, or from another version of mxworker.")


def fail(text: str, code: ExitCode = ExitCode.RUNTIME) -> NoReturn:
    """Exit with an error."""
    click.echo(by_line(f"Error: {text}"), err=True)
    sys.exit(code)


def _said(option: str, value: str | None) -> str | None:
    """Return the value of an option of the command or of its group. A typed value wins over an environment variable."""
    here = click.get_current_context()
    for context in filter(None, (here, here.parent)):
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            return str(context.params[option])
    return value
