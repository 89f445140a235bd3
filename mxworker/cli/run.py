"""`mxworker run`: it sets up logging, maps the board and hands the master a function that lives as a worker."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxworker import __version__
from mxworker.cli import settings
from mxworker.cli.options import Duration, Size, Workers, option
from mxworker.cli.settings import URL_FILE, checked, errors_told, hide_urls
from mxworker.config import DEFAULT_PROCESS_CONCURRENCY, DEFAULT_QUARANTINE_AFTER, MAX_WORKERS

if TYPE_CHECKING:
    from mxworker.board import Board
    from mxworker.brokers import Brokers
    from mxworker.control import Identity
    from mxworker.master.control import Listener
    from mxworker.terminal import Terminal

log = logging.getLogger("mxworker")


@click.command(
    epilog="Durations read 250ms, 30s, 5m, sizes 512MB, 1GiB.  TERM or Ctrl-C drains; Ctrl-C again cancels handlers."
)
@click.argument("app")
@option(
    "--broker-url",
    multiple=True,
    help=f"Where RabbitMQ is: amqp[s]://user:password@host/vhost.  Again: where to turn when the first is down.  "
    f"{URL_FILE} names a file with one a line.",
)
@option("--broker-shuffle", is_flag=True, help="Each worker prefers another of the brokers.")
@option("--tls-ca", type=click.Path(), help="Trust these authorities for amqps://, not the system's.  PEM.")
@option("--tls-cert", type=click.Path(), help="Our certificate, for a broker that asks for one.  PEM.")
@option("--tls-key", type=click.Path(), help="Its key, when it is in another file.  PEM.")
@option("--workers", "-w", type=Workers(), default="auto", show_default=True, help="Worker processes.")
@option("--concurrency", "-c", type=click.IntRange(1, 65535), help="Handlers at once per queue and process.")
@option(
    "--process-concurrency",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PROCESS_CONCURRENCY,
    show_default=True,
    help="Handlers at once per process, all queues together.",
)
@option("--prefetch", type=click.IntRange(1, 65535), help="Deliveries sent ahead per queue and process.")
@option(
    "--prefetch-budget",
    type=Size(),
    default="256MiB",
    show_default=True,
    help="Bodies that a process may hold, over all queues.",
)
@option(
    "--max-body-size",
    type=Size(),
    default="128MiB",
    show_default=True,
    help="Read no larger body; its message becomes a dead letter, or stops its queue where that would lose it.",
)
@option(
    "--max-publish-size",
    type=Size(),
    default="16MiB",
    show_default=True,
    help="Publish no larger body.  Keep it at or below the broker's max_message_size.",
)
@option("--queues", "-Q", help="Consume only these queues, separated by commas.")
@option("--handler-timeout", type=Duration(), help="How long a handler may run.")
@option("--drain-timeout", type=Duration(), default="30s", show_default=True, help="Time to finish what runs.")
@option("--heartbeat-timeout", type=Duration(), default="30s", show_default=True, help="Replace a silent worker after.")
@option(
    "--boot-timeout",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Time to load the app and enter its lifespans.",
)
@option("--connect-wait", type=Duration(), default="30s", show_default=True, help="Wait for the broker at start.")
@option(
    "--max-messages", type=click.IntRange(1), help="Replace a worker after so many deliveries.  These three: +-10%."
)
@option("--max-rss", type=Size(), help="Replace a worker that takes so much memory.")
@option("--max-age", type=Duration(), help="Replace a worker that is so old.")
@option(
    "--quarantine-after",
    type=click.IntRange(0, 1000),
    default=DEFAULT_QUARANTINE_AFTER,
    show_default=True,
    help="Set a message aside that has killed so many workers.  0: never.",
)
@option("--name", help="What this service is called, by 'mxworker status' for one.  [default: APP]")
@option("--control-socket", type=click.Path(), help="Take requests here.  [default: NAME.sock in a runtime directory]")
@option("--burst", is_flag=True, help="Exit with 0 when the queues are empty.")
@option("--app-dir", type=click.Path(exists=True, file_okay=False), help="Look for APP here first.")
@option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@option("--log-format", type=click.Choice(["auto", "text", "json"]), default="auto", show_default=True)
@click.option("--dies-with", type=int, hidden=True, help="The parent process; this one dies with it.")
@click.pass_context
def run(ctx: click.Context, /, app: str, log_level: str, log_format: str, dies_with: int | None, **flags: Any) -> None:
    """Consume the queues of APP, a `module:attribute` or `file.py:attribute`; the attribute defaults to `handlers`."""
    from mxworker.child import bind_to_parent
    from mxworker.log import is_text, set_up
    from mxworker.terminal import Terminal

    terminal = None if dies_with is not None else Terminal()  # the parent sees to its own, and tells this process
    hide_urls(f"mxworker: run {app}")
    set_up(log_level, log_format)
    if dies_with is not None:
        bind_to_parent(dies_with)
    with errors_told():
        brokers = checked(ctx, flags)
        if brokers.exposed_places:
            places = ", ".join(brokers.exposed_places)
            log.warning("password and messages go to %s in plain text; write amqps:// for TLS", places)
        code = _supervise(app, brokers, flags, is_text(log_format), terminal)
    sys.exit(code)


def _supervise(app: str, brokers: Brokers, flags: dict[str, Any], as_text: bool, terminal: Terminal | None) -> int:
    """Put board, master and workers together; return the exit code of the service."""
    from mxworker.board import Board
    from mxworker.cpus import usable
    from mxworker.master import loop
    from mxworker.worker import main as worker  # before the fork, so that its pages are shared

    workers, origin = flags["workers"], "set"
    if workers is None:
        cpus = usable()
        workers, origin = min(cpus.count, MAX_WORKERS), f"auto: {cpus.origin}"
    identity = settings.identity(app, flags)
    consumption = settings.consumption(app, brokers, flags)
    listener = _listener(identity, flags["control_socket"])
    board = Board(MAX_WORKERS + 1)  # one slot more, in which a replacement starts
    control = "none" if listener is None else str(listener.path)
    greeting = _Greeting(identity.name, app, brokers, f"{workers} ({origin})", control, as_text)
    try:
        code = loop.run(
            settings.supervision(identity.name, workers, flags),
            board,
            run_worker=lambda number: worker.run(consumption, board, number),
            announce=greeting.ready,
            listener=listener,
            terminal=terminal,
        )
    finally:
        if listener is not None:
            listener.close()
    if board.ever_ready:
        tally = _tally(board)
        done = ", ".join(f"{count:,} {name}" for name, count in tally.items())
        log.info("stopped with exit code %d: %s", code, done, extra={"exit_code": code, **tally})
    return code


def _listener(identity: Identity, asked: str | None) -> Listener | None:
    """Return where requests come in."""
    from mxworker.control import directories
    from mxworker.master.control import listen, listen_at

    places = directories(os.environ, os.geteuid())
    return listen(identity, places) if asked is None else listen_at(Path(asked), identity)


class _Greeting:
    """What is said at the start: a fact a line for people, one event with all facts in a JSON log."""

    def __init__(self, name: str, app: str, brokers: Brokers, workers: str, control: str, as_text: bool) -> None:
        """Say to people what is known before the first worker."""
        python = ".".join(str(part) for part in sys.version_info[:3])
        self._facts = {
            "mxworker": f"{__version__}, Python {python}, aio-pika {version('aio-pika')}",
            "app": app,
            "service": name,
            "broker": str(brokers),
            "workers": workers,
            "control": control,
        }
        self._as_text = as_text
        self._is_wanted = log.isEnabledFor(logging.INFO)
        if as_text and self._is_wanted:
            from mxworker.log import say

            say("\n".join(f"{name:<11} {fact}" for name, fact in self._facts.items()))

    def ready(self, seconds: float, consuming: str) -> None:
        """Say that the service is ready, and what it consumes."""
        ready = f"Ready in {seconds:.2f} s. Ctrl-C drains."
        if self._as_text and self._is_wanted:
            from mxworker.log import say

            say(f"{consuming}\n{ready}")
        else:
            log.info(ready, extra={**self._facts, "consuming": consuming.splitlines()})


def _tally(board: Board) -> dict[str, int]:
    """Return what all workers of this run did, those that died included."""
    from mxworker.board import Word

    words = (Word.ACKED, Word.REQUEUED, Word.RETRIED, Word.REJECTED, Word.QUARANTINED, Word.STALE)
    return {word.name.lower(): sum(slot.words[word] for slot in board.used) for word in words}
