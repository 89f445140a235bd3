"""The command `mxworker dev`: how it turns its options into the command line of a `run` that it keeps going."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxworker.cli.config.options import BY_KEY, LeafOption
from mxworker.cli.config.sources import Rank, rank
from mxworker.cli.dev.keys import HINT
from mxworker.cli.embedded import lent_broker
from mxworker.cli.help import EXIT_CODES, Command, option
from mxworker.cli.run import run
from mxworker.cli.settings import (
    check,
    checked_brokers,
    errors_told,
    hide_urls,
    identity,
    url_source,
)
from mxworker.config.kinds import Text
from mxworker.system import interpreter
from mxworker.system.printable import foreign

if TYPE_CHECKING:
    from mxworker.brokers import Brokers
    from mxworker.cli.dev.console import Console
    from mxworker.cli.dev.wanted import Wanted

_DEFAULTS = {
    "workers": "1",
    "drain_timeout": "5s",
    "log_level": "debug",
    "log_format": "text",
    "connect_wait": "8760h",  # a year: a broker that is down is waited for
}
_SHOWN_DEFAULTS = {"connect_wait": "no limit"}
_OWN_TO_RUN = ("dies_with", "ready_hint", "hide_workings")
_SECRET = "broker_url"  # noqa: S105 - the name of the option


def parameters(run: click.Command) -> list[click.Parameter]:
    """Return the parameters of `run`, with the defaults of `dev`."""
    return [_for_dev(parameter) for parameter in run.params if parameter.name not in _OWN_TO_RUN]


def _for_dev(parameter: click.Parameter) -> click.Parameter:
    copied = copy.copy(parameter)
    name = parameter.name or ""
    if name in _DEFAULTS and isinstance(copied, click.Option):
        copied.default = _DEFAULTS[name]
        copied.show_default = _SHOWN_DEFAULTS.get(name, copied.show_default)
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
@option(
    "--no-keys",
    is_flag=True,
    section="Application",
    help="Leave the terminal to the app, for example for breakpoint() in a handler.",
)
@click.pass_context
def dev(ctx: click.Context, /, app: str, reload_dir: tuple[str, ...], no_keys: bool, **flags: Any) -> None:
    """Run APP as `run` does, and reload it when a file is saved.

    There are two ways to a broker: with --broker-url it uses RabbitMQ, and waits for it. Without a broker URL it starts
    the embedded broker, as `run` does with --embedded. On a terminal, keys publish a sample message, reload, and more.
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
        brokers = checked_brokers(ctx, flags)
        values = {**ctx.params, **flags}
        console = None if no_keys else _console(app, brokers, values)
        hint = () if console is None else (f"--ready-hint={HINT}",)
        is_level_asked = rank(BY_KEY["log-level"]) > Rank.DEFAULT
        hiding = () if is_level_asked else ("--hide-workings",)
        command = service_command(run, values, *hint, *hiding)
        code = outer.run(command, service_environment(run, values), watched, terminal, embedded, console)
    sys.exit(code)


def _console(app: str, brokers: Brokers, values: Mapping[str, Any]) -> Console | None:
    """Return the console, None when no person reads the log and presses keys."""
    from mxworker.cli.dev.console import Console, SampleProcess
    from mxworker.cli.dev.inquiry import Inquiry
    from mxworker.cli.dev.keyboard import Keyboard, has_keyboard
    from mxworker.system.log import is_json

    if is_json() or not has_keyboard():
        return None
    command = [*_python(), "-P", "-m", "mxworker.cli.dev.publish_samples"]
    environment = service_environment(run, {**values, _SECRET: ()})
    samples = SampleProcess(command, environment, _wanted_samples(app, brokers, values))
    return Console(Keyboard(), Inquiry(identity(app, values), values["control_socket"]), samples)


def _wanted_samples(app: str, brokers: Brokers, values: Mapping[str, Any]) -> Wanted:
    """Return what the key p publishes."""
    from mxworker.cli.dev.wanted import Wanted

    return Wanted(
        app=app,
        app_dir=values["app_dir"],
        may_be_insecure=values["insecure_app_dir"],
        queues=values["queues"] or (),
        urls=tuple(url.dsn for url in brokers.urls),
        tls_ca=values["tls_ca"],
        tls_cert=values["tls_cert"],
        tls_key=values["tls_key"],
        parent=os.getpid(),
    )


def service_command(run: click.Command, values: Mapping[str, Any], *more: str) -> list[str]:
    """Return the command line of a `run` with these values, except for the broker URLs, which hold passwords.

    The interpreter gets our own options. With -m the current directory is on the import path, unless -P is given, so
    that the service finds the modules that we find. `more` are options that only `run` has.
    """
    safely = [] if str(Path.cwd()) in sys.path else ["-P"]
    options = [option for option in run.params if isinstance(option, click.Option) and option.name in values]
    said = [text for option in options if option.name != _SECRET for text in _said(option, values[option.name])]
    return [*_python(), *safely, "-m", "mxworker", "run", values["app"], f"--dies-with={os.getpid()}", *more, *said]


def _python() -> list[str]:
    return [sys.executable, *interpreter.options()]


def service_environment(run: click.Command, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of that `run`, with the broker URLs. Values of other variables are on its command line."""
    variables = {option.name: str(option.envvar) for option in run.params if option.envvar is not None}
    kept = {name: value for name, value in os.environ.items() if name not in variables.values()}
    urls = {variables[_SECRET]: " ".join(values[_SECRET])} if values[_SECRET] else {}
    return {**kept, **urls}


def _said(option: click.Option, value: Any) -> list[str]:
    """Return the option as it is typed, or nothing when that is not possible, as without a value.

    A flag that is off is typed too, since a configuration file may say otherwise.
    """
    flag = max(option.opts, key=len)
    if isinstance(value, bool):
        return [flag] if value else option.secondary_opts[:1]
    if option.multiple:
        return [f"{flag}={item}" for item in value]
    kind = option.leaf.kind if isinstance(option, LeafOption) else Text()
    if value is None and not kind.allows(None):
        return []
    return [f"{flag}={kind.write(value)}"]
