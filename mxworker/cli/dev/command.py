"""The command `mxworker dev`: how it turns its options into the command line of a `run` that it keeps going."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from mxworker.cli.embedded import lent_broker
from mxworker.cli.help import EXIT_CODES, Command, option
from mxworker.cli.run import run
from mxworker.cli.settings import check, checked_brokers, errors_told, hide_urls, url_source
from mxworker.system import interpreter
from mxworker.system.printable import foreign

_DEFAULTS = {"workers": 1, "drain_timeout": "5s", "log_level": "debug", "log_format": "text"}
_OWN_TO_RUN = "dies_with"
_SECRET = "broker_url"  # noqa: S105 - the name of the option


def parameters(run: click.Command) -> list[click.Parameter]:
    """Return the parameters of `run`, with the defaults of `dev`."""
    return [_for_dev(parameter) for parameter in run.params if parameter.name != _OWN_TO_RUN]


def _for_dev(parameter: click.Parameter) -> click.Parameter:
    copied = copy.copy(parameter)
    copied.default = _DEFAULTS.get(parameter.name or "", parameter.default)
    return copied


@click.command(
    cls=Command,
    params=parameters(run),
    exit_codes=EXIT_CODES,
    examples=("mxworker dev app:handlers", "mxworker dev app:handlers --broker-url amqp://guest:guest@localhost/"),
    epilog=run.epilog,
)
@option(
    "--reload-dir",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    section="Application",
    metavar="DIRECTORY",
    help="Watch this directory too. Repeat the option to watch several.",
)
@click.pass_context
def dev(ctx: click.Context, /, app: str, reload_dir: tuple[str, ...], **flags: Any) -> None:
    """Run APP as `run` does, and reload it when a file is saved.

    Without a broker URL it starts the embedded broker, as `run` does with --embedded.
    """
    from mxworker.cli.dev import outer, sources
    from mxworker.system.log import set_up
    from mxworker.system.terminal import Terminal

    terminal = Terminal()
    hide_urls(f"mxworker: dev {foreign(app)}")
    set_up(flags["log_level"], flags["log_format"])
    watched = sources.folders(app, flags["app_dir"], reload_dir)
    with errors_told(), ExitStack() as lending:
        check(app, flags)
        is_embedded = flags["embedded"] or url_source(flags) is None
        flags, embedded = lending.enter_context(lent_broker(flags, is_embedded))
        checked_brokers(ctx, flags)
        values = {**ctx.params, **flags}
        code = outer.run(service_command(run, values), service_environment(run, values), watched, terminal, embedded)
    sys.exit(code)


def service_command(run: click.Command, values: Mapping[str, Any]) -> list[str]:
    """Return the command line of a `run` with these values, except for the broker URLs, which hold passwords.

    The interpreter gets our own options. With -m the current directory is on the import path, unless -P is given, so
    that the service finds the modules that we find.
    """
    safely = [] if str(Path.cwd()) in sys.path else ["-P"]
    options = [option for option in run.params if isinstance(option, click.Option) and option.name in values]
    said = [text for option in options if option.name != _SECRET for text in _said(option, values[option.name])]
    python = [sys.executable, *interpreter.options(), *safely]
    return [*python, "-m", "mxworker", "run", values["app"], f"--dies-with={os.getpid()}", *said]


def service_environment(run: click.Command, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of that `run`, with the broker URLs. Values of other variables are on its command line.

    No bytecode is written: a cached file is known by size and by mtime in whole seconds (PEP 3147), so that an edit of
    equal size within the same second would go unnoticed.
    """
    variables = {option.name: str(option.envvar) for option in run.params if option.envvar is not None}
    kept = {name: value for name, value in os.environ.items() if name not in variables.values()}
    urls = {variables[_SECRET]: " ".join(values[_SECRET])} if values[_SECRET] else {}
    return {**kept, **urls, "PYTHONDONTWRITEBYTECODE": "1"}


def _said(option: click.Option, value: Any) -> list[str]:
    """Return the option as it is typed, or nothing when leaving it out means the same."""
    flag = max(option.opts, key=len)
    match value:
        case None | False:
            return []
        case True:
            return [flag]
        case tuple():
            return [f"{flag}={item}" for item in value]
        case float():
            return [f"{flag}={value:f}"]
        case _:
            return [f"{flag}={value}"]
