"""`mxworker run`: set up logging, map the board, and start the master with a function that runs a worker."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxworker import __version__
from mxworker.cli import settings
from mxworker.cli.embedded import DEFAULT_PORT, lent_broker
from mxworker.cli.help import EXIT_CODES, Command, option
from mxworker.cli.http import http_listen, http_options, metrics_directory
from mxworker.cli.options import DURATION, SIZE, Workers
from mxworker.cli.settings import URL_FILE, errors_told, hide_urls
from mxworker.config.bounds import DEFAULT_PROCESS_CONCURRENCY, DEFAULT_QUARANTINE_AFTER, LOG_LEVELS, MAX_WORKERS
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

if TYPE_CHECKING:
    from mxworker.board.page import Board
    from mxworker.brokers import Brokers
    from mxworker.control.protocol import Identity
    from mxworker.devbroker.keeping import KeptBroker
    from mxworker.master.listener import Listener
    from mxworker.system.terminal import Terminal

log = logging.getLogger("mxworker")


_BROKER = "Broker"
_APPLICATION = "Application"
_CONCURRENCY = "Concurrency"
_LIMITS = "Limits"
_SUPERVISION = "Supervision"
_LOGGING = "Logging"


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=(
        "mxworker run app:handlers --broker-url amqp://user:password@rabbit/",
        "mxworker run shop/app.py --workers 4 --drain-timeout 1m",
        "mxworker run app:handlers --embedded",
    ),
    epilog="A DURATION is written like 250ms, 30s, 5m or 1h, a SIZE like 512MB or 1GiB. SIGTERM and Ctrl-C drain: "
    "running handlers finish. A second Ctrl-C cancels them, a third one kills the workers. SIGHUP reloads the code.",
)
@click.argument("app")
@option(
    "--broker-url",
    multiple=True,
    section=_BROKER,
    metavar="URL",
    help="The address of RabbitMQ: amqp[s]://user:password@host/vhost. Repeat the option to name brokers to fail over "
    f"to. {URL_FILE} names a file with one URL on each line.",
)
@option(
    "--embedded",
    is_flag=True,
    section=_BROKER,
    help="For development: start a broker that ends with this service, and loses all messages then. It listens on "
    f"127.0.0.1:{DEFAULT_PORT}, or on the next free port.",
)
@option("--broker-shuffle", is_flag=True, section=_BROKER, help="Try the brokers in a random order in each worker.")
@option(
    "--tls-ca",
    type=click.Path(),
    section=_BROKER,
    metavar="FILE",
    show_default="the system's authorities",
    help="The certificate authorities to trust for amqps://, in PEM format.",
)
@option(
    "--tls-cert",
    type=click.Path(),
    section=_BROKER,
    metavar="FILE",
    help="The client certificate for the broker, in PEM format.",
)
@option(
    "--tls-key",
    type=click.Path(),
    section=_BROKER,
    metavar="FILE",
    show_default="in the file of --tls-cert",
    help="The key of the client certificate, in PEM format.",
)
@option(
    "--connect-wait",
    type=DURATION,
    default="30s",
    section=_BROKER,
    show_default=True,
    help="How long to try to reach the broker at the start.",
)
@option(
    "--queues",
    "-Q",
    section=_APPLICATION,
    metavar="NAMES",
    show_default="all queues of the app",
    help="Consume only these queues; separate them by commas.",
)
@option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False),
    section=_APPLICATION,
    metavar="DIRECTORY",
    show_default="the current directory, after all others",
    help="The directory to import APP from, before all others.",
)
@option(
    "--insecure-app-dir",
    is_flag=True,
    section=_APPLICATION,
    help="Run APP even if other users may change its code, and so act as the user of the service.",
)
@option("--burst", is_flag=True, section=_APPLICATION, help="Exit with code 0 when the queues are empty.")
@option(
    "--workers",
    "-w",
    type=Workers(),
    default="auto",
    section=_CONCURRENCY,
    metavar="N|auto",
    show_default=True,
    help="The number of worker processes; auto is one for each CPU that this process may use.",
)
@option(
    "--concurrency",
    "-c",
    type=click.IntRange(1, 65535),
    section=_CONCURRENCY,
    metavar="N",
    show_default="as in the code",
    help="How many handlers may run at once, for each queue in each worker.",
)
@option(
    "--process-concurrency",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PROCESS_CONCURRENCY,
    section=_CONCURRENCY,
    metavar="N",
    show_default=True,
    help="How many handlers may run at once in each worker, for all queues together.",
)
@option(
    "--prefetch",
    type=click.IntRange(1, 65535),
    section=_CONCURRENCY,
    metavar="N",
    show_default="as in the code",
    help="How many unsettled messages the broker may send, for each queue to each worker.",
)
@option(
    "--prefetch-budget",
    type=SIZE,
    default="256MiB",
    section=_CONCURRENCY,
    metavar="SIZE",
    show_default=True,
    help="How much memory unsettled messages, with their decoded payloads, may take in each worker. A message that "
    "would take more by itself becomes a dead letter.",
)
@option(
    "--max-body-size",
    type=SIZE,
    default="128MiB",
    section=_LIMITS,
    metavar="SIZE",
    show_default=True,
    help="The largest body to read. A message with a larger body becomes a dead letter. If its queue has no "
    "dead-letter target, the queue is not consumed any more, so that the message is not lost.",
)
@option(
    "--max-publish-size",
    type=SIZE,
    default="16MiB",
    section=_LIMITS,
    metavar="SIZE",
    show_default=True,
    help="The largest body to publish. Keep it at or below the broker's max_message_size.",
)
@option(
    "--handler-timeout",
    type=DURATION,
    section=_LIMITS,
    show_default="as in the code",
    help="How long a handler may run for one message.",
)
@option(
    "--drain-timeout",
    type=DURATION,
    default="30s",
    section=_LIMITS,
    show_default=True,
    help="How long running handlers may take to finish when the service stops.",
)
@option(
    "--max-messages",
    type=click.IntRange(1),
    section=_LIMITS,
    metavar="N",
    show_default="no limit",
    help="Replace a worker after this many messages. Jittered by 10 %.",
)
@option(
    "--max-rss",
    type=SIZE,
    section=_LIMITS,
    metavar="SIZE",
    show_default="no limit",
    help="Replace a worker that uses more memory than this. Jittered by 10 %.",
)
@option(
    "--max-age",
    type=DURATION,
    section=_LIMITS,
    show_default="no limit",
    help="Replace a worker that has run for this long. Jittered by 10 %.",
)
@option(
    "--quarantine-after",
    type=click.IntRange(0, 1000),
    default=DEFAULT_QUARANTINE_AFTER,
    section=_LIMITS,
    metavar="N",
    show_default=True,
    help="Move a message to the quarantine queue after it has killed this many workers. 0 turns that off.",
)
@option(
    "--heartbeat-timeout",
    type=DURATION,
    default="30s",
    section=_SUPERVISION,
    show_default=True,
    help="Replace a worker whose event loop has not run for this long.",
)
@option(
    "--boot-timeout",
    type=DURATION,
    default="60s",
    section=_SUPERVISION,
    show_default=True,
    help="How long a worker may take to load the app and to enter its lifespans.",
)
@option(
    "--name",
    section=_SUPERVISION,
    show_default="DIRECTORY/APP",
    help="The name of this service, by which 'mxworker status' and 'mxworker ctl' find it.",
)
@option(
    "--control-socket",
    type=click.Path(),
    section=_SUPERVISION,
    metavar="PATH",
    show_default="in a runtime directory",
    help="The socket for requests of 'mxworker status' and 'mxworker ctl'.",
)
@http_options
@option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="info",
    section=_LOGGING,
    metavar="LEVEL",
    show_default=True,
    help="The lowest level to log: debug, info, warning or error.",
)
@option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    section=_LOGGING,
    metavar="FORMAT",
    show_default=True,
    help="The format of the log: text, json, or auto, which is text on a terminal and json elsewhere.",
)
@click.option("--dies-with", type=int, hidden=True, help="The pid of the parent process, with which this one dies.")
@click.option("--ready-hint", hidden=True, default="Ctrl-C drains.", help="What to tell people beside 'Ready'.")
@click.option("--hide-workings", is_flag=True, hidden=True, help="Log no details of how mxworker works.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    app: str,
    log_level: str,
    log_format: str,
    dies_with: int | None,
    hide_workings: bool,
    **flags: Any,
) -> None:
    """Consume the queues of APP with worker processes.

    APP is `module:attribute` or `file.py:attribute`; the attribute defaults to `handlers`.
    """
    from mxworker.system.child import bind_to_parent
    from mxworker.system.log import is_text, set_up
    from mxworker.system.terminal import Terminal

    terminal = None if dies_with is not None else Terminal()  # the parent watches its terminal and signals this process
    hide_urls(f"mxworker: run {foreign(app)}")
    set_up(log_level, log_format, hide_workings)
    if dies_with is not None:
        bind_to_parent(dies_with)
    with errors_told(), ExitStack() as lending:
        settings.check(app, flags)
        flags, embedded = lending.enter_context(lent_broker(flags, flags["embedded"]))
        brokers = settings.checked_brokers(ctx, flags)
        if brokers.exposed_places:
            places = ", ".join(brokers.exposed_places)
            facts = log_event("plain_text_connection", brokers=list(brokers.exposed_places))
            log.warning("password and messages go to %s in plain text; write amqps:// for TLS", places, extra=facts)
        if dies_with is None:  # with `dev`, a person runs what they work on
            settings.warn_of_root()
        code = _supervise(app, brokers, flags, is_text(log_format), terminal, embedded)
    sys.exit(code)


def _supervise(
    app: str,
    brokers: Brokers,
    flags: dict[str, Any],
    as_text: bool,
    terminal: Terminal | None,
    embedded: KeptBroker | None,
) -> int:
    """Create the board, and run the master with the workers; return the exit code of the service."""
    from mxworker.board.page import Board
    from mxworker.cli.cpus import usable
    from mxworker.master import loop
    from mxworker.worker import main as worker  # before the fork, so that its pages are shared

    workers, origin = flags["workers"], "set"
    if workers is None:
        cpus = usable()
        workers, origin = min(cpus.count, MAX_WORKERS), f"auto: {cpus.origin}"
    identity = settings.identity(app, flags)
    consumption = settings.consumption(app, brokers, flags)
    supervision = settings.supervision(identity.name, workers, flags)
    http = http_listen(flags)
    listener = _listener(identity, flags["control_socket"])
    board = Board(MAX_WORKERS + 1)  # a replacement starts in the spare slot
    places = {
        **({"http": "none"} if http is None else {"http": http.url, "metrics": f"{http.url}metrics"}),
        "control": "none" if listener is None else str(listener.path),
    }
    greeting = _Greeting(identity.name, app, brokers, f"{workers} ({origin})", places, as_text, flags["ready_hint"])
    with ExitStack() as closing:
        observing = None
        if listener is not None:
            closing.callback(listener.close)
        if http is not None:
            directory = closing.enter_context(metrics_directory(None if listener is None else listener.path))
            consumption = replace(consumption, metrics_directory=None if directory is None else str(directory))
            observing = http.observing(board, directory, supervision.heartbeat_timeout_s)
        code = loop.run(
            supervision,
            board,
            run_worker=lambda number: worker.run(consumption, board, number),
            announce=greeting.ready,
            listener=listener,
            terminal=terminal,
            observing=observing,
            companion=embedded,
        )
    if board.ever_ready:
        tally = _tally(board)
        counts = [f"{count:,} {name.replace('_', ' ')}" for name, count in tally.items() if count]
        done = ", ".join(counts) or "no message was handled"
        log.info(
            "stopped with exit code %d: %s", code, done, extra=log_event("service_stopped", exit_code=code, **tally)
        )
    return code


def _listener(identity: Identity, asked: str | None) -> Listener | None:
    """Return the listener for requests, None when none can be made."""
    from mxworker.control.protocol import directories
    from mxworker.master.listener import listen, listen_at

    places = directories(os.environ, os.geteuid())
    return listen(identity, places) if asked is None else listen_at(Path(asked), identity)


class _Greeting:
    """The start-up facts: one fact a line for people, or one event with all facts in a JSON log."""

    def __init__(
        self, name: str, app: str, brokers: Brokers, workers: str, places: Mapping[str, str], as_text: bool, hint: str
    ) -> None:
        """In a text log, show the facts that are known before the first worker starts.

        `places` are those at which the service can be reached; `hint` is what to tell when it is ready.
        """
        python = ".".join(str(part) for part in sys.version_info[:3])
        self._facts = {
            "mxworker": f"{__version__}, Python {python}, aio-pika {version('aio-pika')}",
            "app": foreign(app),
            "service": foreign(name),
            "broker": foreign(brokers),
            "workers": workers,
            **{what: foreign(place) for what, place in places.items()},
        }
        self._as_text = as_text
        self._hint = hint
        self._is_wanted = log.isEnabledFor(logging.INFO)
        if as_text and self._is_wanted:
            from mxworker.system.log import say

            say("\n".join(f"{name:<11} {fact}" for name, fact in self._facts.items()))

    def ready(self, seconds: float, consuming: str) -> None:
        """Log that the service is ready, and which queues it consumes."""
        ready = f"Ready in {seconds:.2f} s. {self._hint}"
        if self._as_text and self._is_wanted:
            from mxworker.system.log import say

            say(f"{consuming}\n{ready}")
        else:
            log.info(ready, extra=log_event("service_ready", **self._facts, consuming=consuming.splitlines()))


def _tally(board: Board) -> dict[str, int]:
    """Return the counts of all workers of this run, with those that died."""
    from mxworker.board.metrics import outcomes
    from mxworker.board.metrics_layout import Outcome

    counts = [outcomes(slot.metrics) for slot in board.used]
    names = {
        Outcome.ACK: "acked",
        Outcome.REQUEUE: "requeued",
        Outcome.RETRY: "retried",
        Outcome.REJECT: "rejected",
        Outcome.DECODE_ERROR: "undecodable",
        Outcome.TIMEOUT: "timed_out",
        Outcome.QUARANTINE: "quarantined",
        Outcome.STALE: "stale",
    }
    return {name: sum(each[outcome] for each in counts) for outcome, name in names.items()}
