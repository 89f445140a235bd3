"""The command line, and the one place that puts the parts together. What asks a running service is in `cli_control`.

`run` turns flags and environment into settings, sets up logging, maps the board and hands the master a function that
lives as a worker. `dev` keeps a `run` going and has it reload. Everything heavy is imported inside the command:
`mxworker --help` must stay quick.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxworker import __version__, cli_dev
from mxworker.brokers import Brokers, Tls
from mxworker.cli_control import ctl, status
from mxworker.config import (
    DEFAULT_PROCESS_CONCURRENCY,
    DEFAULT_QUARANTINE_AFTER,
    MAX_WORKERS,
    Consumption,
    Supervision,
    parse_duration_s,
    parse_size_bytes,
)
from mxworker.errors import ConfigError
from mxworker.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mxworker.board import Board
    from mxworker.master.control import Listener

log = logging.getLogger("mxworker")

_URL = "MXWORKER_BROKER_URL"
_URL_FILE = f"{_URL}_FILE"


class _Duration(click.ParamType[float]):
    """A duration such as 250ms, 30s, 5m; seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or fail with the parser's text."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration_s(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _Size(click.ParamType[int]):
    """A size such as 512MB or 1GiB; bytes as an int."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes, or fail with the parser's text."""
        if isinstance(value, int):
            return value
        try:
            return parse_size_bytes(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _Workers(click.ParamType["int | None"]):
    """A number of workers, or `auto`: one per CPU that this process may use."""

    name = "n|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, None for auto."""
        if value is None or value == "auto":
            return None
        if not str(value).isdigit() or not 1 <= int(value) <= MAX_WORKERS:
            self.fail(f"'{value}' is neither 'auto' nor a number from 1 to {MAX_WORKERS}.", param, ctx)
        return int(value)


def _option(flag: str, *short: str, **settings: Any) -> Callable[[Any], Any]:
    """Return an option whose environment variable is MXWORKER_<FLAG>, shown in --help."""
    variable = "MXWORKER_" + flag.removeprefix("--").replace("-", "_").upper()
    return click.option(*short, flag, envvar=variable, show_envvar=True, **settings)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="mxworker")
def main() -> None:
    """Run a multi-process RabbitMQ worker service."""


main.add_command(ctl)
main.add_command(status)


@main.command(
    epilog="Durations read 250ms, 30s, 5m, sizes 512MB, 1GiB.  TERM or Ctrl-C drains; Ctrl-C again cancels handlers."
)
@click.argument("app")
@_option(
    "--broker-url",
    multiple=True,
    help=f"Where RabbitMQ is: amqp[s]://user:password@host/vhost.  Again: where to turn when the first is down.  "
    f"{_URL_FILE} names a file with one a line.",
)
@_option("--broker-shuffle", is_flag=True, help="Each worker prefers another of the brokers.")
@_option("--tls-ca", type=click.Path(), help="Trust these authorities for amqps://, not the system's.  PEM.")
@_option("--tls-cert", type=click.Path(), help="Our certificate, for a broker that asks for one.  PEM.")
@_option("--tls-key", type=click.Path(), help="Its key, when it is in another file.  PEM.")
@_option("--workers", "-w", type=_Workers(), default="auto", show_default=True, help="Worker processes.")
@_option("--concurrency", "-c", type=click.IntRange(1, 65535), help="Handlers at once per queue and process.")
@_option(
    "--process-concurrency",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PROCESS_CONCURRENCY,
    show_default=True,
    help="Handlers at once per process, all queues together.",
)
@_option("--prefetch", type=click.IntRange(1, 65535), help="Deliveries sent ahead per queue and process.")
@_option(
    "--prefetch-budget",
    type=_Size(),
    default="256MiB",
    show_default=True,
    help="Bodies that a process may hold, over all queues.",
)
@_option("--queues", "-Q", help="Consume only these queues, separated by commas.")
@_option("--handler-timeout", type=_Duration(), help="How long a handler may run.")
@_option("--drain-timeout", type=_Duration(), default="30s", show_default=True, help="Time to finish what runs.")
@_option(
    "--heartbeat-timeout", type=_Duration(), default="30s", show_default=True, help="Replace a silent worker after."
)
@_option("--boot-timeout", type=_Duration(), default="60s", show_default=True, help="Time to load the app.")
@_option("--connect-wait", type=_Duration(), default="30s", show_default=True, help="Wait for the broker at start.")
@_option(
    "--max-messages", type=click.IntRange(1), help="Replace a worker after so many deliveries.  These three: +-10%."
)
@_option("--max-rss", type=_Size(), help="Replace a worker that takes so much memory.")
@_option("--max-age", type=_Duration(), help="Replace a worker that is so old.")
@_option(
    "--quarantine-after",
    type=click.IntRange(0, 1000),
    default=DEFAULT_QUARANTINE_AFTER,
    show_default=True,
    help="Set a message aside that has killed so many workers.  0: never.",
)
@_option("--name", help="What this service is called, by 'mxworker status' for one.  [default: APP]")
@_option("--control-socket", type=click.Path(), help="Take requests here.  [default: NAME.sock in a runtime directory]")
@_option("--burst", is_flag=True, help="Exit with 0 when the queues are empty.")
@_option("--app-dir", type=click.Path(exists=True, file_okay=False), help="Look for APP here first.")
@_option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@_option("--log-format", type=click.Choice(["auto", "text", "json"]), default="auto", show_default=True)
@click.option("--dies-with", type=int, hidden=True, help="The parent process; this one dies with it.")
@click.pass_context
def run(ctx: click.Context, /, app: str, log_level: str, log_format: str, dies_with: int | None, **flags: Any) -> None:
    """Consume the queues of APP, a `module:attribute` or `file.py:attribute`; the attribute defaults to `handlers`."""
    from mxworker.child import bind_to_parent
    from mxworker.log import is_text, set_up

    _hide_urls(f"mxworker: run {app}")
    set_up(log_level, log_format)
    if dies_with is not None:
        bind_to_parent(dies_with)
    with _errors_told():
        brokers = _checked(ctx, flags)
        if brokers.exposed_places:
            places = ", ".join(brokers.exposed_places)
            log.warning("password and messages go to %s in plain text; write amqps:// for TLS", places)
        code = _supervise(app, brokers, flags, is_text(log_format))
    sys.exit(code)


@main.command(params=cli_dev.parameters(run))
@_option(
    "--reload-dir", multiple=True, type=click.Path(exists=True, file_okay=False), help="Watch this directory, too."
)
@click.pass_context
def dev(ctx: click.Context, /, app: str, reload_dir: tuple[str, ...], **flags: Any) -> None:
    """Do as `run` does, and reload APP whenever one of its files is saved."""
    from mxworker.dev import outer, sources
    from mxworker.log import set_up

    _hide_urls(f"mxworker: dev {app}")
    set_up(flags["log_level"], flags["log_format"])
    command, environment = cli_dev.service_command(run, ctx.params), cli_dev.service_environment(run, ctx.params)
    watched = sources.folders(app, flags["app_dir"], reload_dir)
    with _errors_told():
        _checked(ctx, flags)
        code = outer.run(command, environment, watched, sys.stderr.isatty())
    sys.exit(code)


def _hide_urls(title: str) -> None:
    """Wipe the URLs, for the passwords in them, from where others read them, and from what handlers' subprocesses get.

    The title overwrites the command line and the environment where the kernel shows them. It does so up to the first
    gap, so that the variable is taken out after it.
    """
    from setproctitle import setproctitle

    setproctitle(title)
    os.environ.pop(_URL, None)


@contextmanager
def _errors_told() -> Iterator[None]:
    """Say what is wrong with a setting, without a traceback, and exit."""
    try:
        yield
    except ConfigError as error:
        _say(f"Error: {error}")
        sys.exit(error.exit_code)


def _checked(ctx: click.Context, flags: dict[str, Any]) -> Brokers:
    """Return the brokers, with all settings found to be usable. Raises ConfigError."""
    brokers = _brokers(flags)
    _check(flags)
    is_typed = ctx.get_parameter_source("broker_url") is click.core.ParameterSource.COMMANDLINE
    if is_typed and any(map(_has_password, flags["broker_url"])):
        log.warning("a password on the command line is visible to others; %s names a file to read it from", _URL_FILE)
    return brokers


def _brokers(flags: dict[str, Any]) -> Brokers:
    """Return the brokers, with every file that TLS needs found to be usable."""
    urls = flags["broker_url"] or _urls_from_file()
    if not urls:
        raise ConfigError(
            "no broker URL.\n"
            "  Try:  mxworker run APP --broker-url amqp://user:password@host/\n"
            f"  or set {_URL}, or let {_URL_FILE} name a file that holds it."
        )
    tls = Tls(flags["tls_ca"], flags["tls_cert"], flags["tls_key"])
    brokers = Brokers.parse(urls, flags["broker_shuffle"], tls)
    if brokers.urls[0].is_tls:
        from mxworker.amqp.tls import check_files

        check_files(tls)
    return brokers


def _urls_from_file() -> list[str]:
    path = os.environ.get(_URL_FILE)
    if not path:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_URL_FILE} names '{path}', which cannot be read: {error}.") from error
    return [line for line in lines if line.strip()]


def _has_password(url: str) -> bool:
    return "@" in url and ":" in url.partition("://")[2].rpartition("@")[0]


def _check(flags: dict[str, Any]) -> None:
    for name in ("handler_timeout", "heartbeat_timeout", "boot_timeout"):
        if flags[name] is not None and flags[name] <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be longer than 0.")
    for name in ("max_messages", "max_rss", "max_age"):
        if flags[name] is not None and flags["burst"]:
            raise ConfigError(
                f"--burst and --{name.replace('_', '-')} exclude each other: in a burst no worker is replaced."
            )
    if flags["heartbeat_timeout"] < 2:
        raise ConfigError("--heartbeat-timeout must be at least 2s: workers beat once a second.")
    if flags["app_dir"] is not None:
        from mxworker.worker.loading import check_app_dir

        check_app_dir(flags["app_dir"])


def _supervise(app: str, brokers: Brokers, flags: dict[str, Any], as_text: bool) -> int:
    """Put board, master and workers together; return the exit code of the service."""
    from mxworker.board import Board
    from mxworker.cpus import usable
    from mxworker.master import loop
    from mxworker.worker import main as worker  # before the fork, so that its pages are shared

    workers, origin = flags["workers"], "set"
    if workers is None:
        cpus = usable()
        workers, origin = min(cpus.count, MAX_WORKERS), f"auto: {cpus.origin}"
    name = flags["name"] or app
    consumption = _consumption(app, brokers, flags)
    listener = _listener(name, flags["control_socket"])
    board = Board(MAX_WORKERS + 1)  # one slot more, in which a replacement starts
    control = "none" if listener is None else str(listener.path)
    greeting = _Greeting(app, brokers, f"{workers} ({origin})", control, as_text)
    try:
        code = loop.run(
            _supervision(name, workers, flags),
            board,
            run_worker=lambda number: worker.run(consumption, board, number),
            announce=greeting.ready,
            listener=listener,
        )
    finally:
        if listener is not None:
            listener.close()
    if board.ever_ready:
        log.info("stopped with exit code %d: %s", code, _tally(board))
    return code


def _listener(name: str, asked: str | None) -> Listener | None:
    """Return where requests come in."""
    from mxworker.control import directories
    from mxworker.master.control import listen, listen_at

    return listen(name, directories(os.environ, os.geteuid())) if asked is None else listen_at(Path(asked))


def _supervision(name: str, workers: int, flags: dict[str, Any]) -> Supervision:
    return Supervision(
        name=name,
        workers=workers,
        drain_timeout_s=flags["drain_timeout"],
        heartbeat_timeout_s=flags["heartbeat_timeout"],
        boot_timeout_s=flags["boot_timeout"],
        burst=flags["burst"],
        quarantine_after=flags["quarantine_after"],
    )


def _consumption(app: str, brokers: Brokers, flags: dict[str, Any]) -> Consumption:
    return Consumption(
        app=app,
        brokers=brokers,
        app_dir=flags["app_dir"],
        queues=tuple(name.strip() for name in (flags["queues"] or "").split(",") if name.strip()),
        concurrency=flags["concurrency"],
        prefetch=flags["prefetch"],
        prefetch_budget_bytes=flags["prefetch_budget"],
        handler_timeout_s=flags["handler_timeout"],
        process_concurrency=flags["process_concurrency"],
        drain_timeout_s=flags["drain_timeout"],
        heartbeat_timeout_s=flags["heartbeat_timeout"],
        connect_wait_s=flags["connect_wait"],
        burst=flags["burst"],
        limits=Limits(flags["max_messages"], flags["max_rss"], flags["max_age"]),
        quarantine_after=flags["quarantine_after"],
    )


class _Greeting:
    """What is said at the start: a fact a line for people, one event with all facts in a JSON log."""

    def __init__(self, app: str, brokers: Brokers, workers: str, control: str, as_text: bool) -> None:
        """Say to people what is known before the first worker."""
        python = ".".join(str(part) for part in sys.version_info[:3])
        self._facts = {
            "mxworker": f"{__version__}, Python {python}, aio-pika {version('aio-pika')}",
            "app": app,
            "broker": str(brokers),
            "workers": workers,
            "control": control,
        }
        self._as_text = as_text
        if as_text:
            _say("\n".join(f"{name:<11} {fact}" for name, fact in self._facts.items()))

    def ready(self, seconds: float, consuming: str) -> None:
        """Say that the service is ready, and what it consumes."""
        ready = f"Ready in {seconds:.2f} s. Ctrl-C drains."
        if self._as_text:
            _say(f"{consuming}\n{ready}")
        else:
            log.info(ready, extra={**self._facts, "consuming": consuming.splitlines()})


def _tally(board: Board) -> str:
    """Return what all workers of this run did, those that died included."""
    from mxworker.board import Word

    words = (Word.ACKED, Word.REQUEUED, Word.RETRIED, Word.REJECTED, Word.QUARANTINED, Word.STALE)
    return ", ".join(f"{sum(slot.words[word] for slot in board.used):,} {word.name.lower()}" for word in words)


def _say(text: str) -> None:
    """Write to stderr; a reader that went away is no reason to stop working."""
    with suppress(OSError):
        click.echo(text, err=True)
