"""`mxworker run`: set up logging, map the board, and start the master with a function that runs a worker."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxworker import __version__
from mxworker.cli import settings
from mxworker.cli.config.options import LEAVES, options_of
from mxworker.cli.config.sources import configuration_options, sources
from mxworker.cli.embedded import lent_broker
from mxworker.cli.help import EXIT_CODES
from mxworker.cli.http import http_listen, metrics_directory
from mxworker.cli.settings import ServiceCommand, errors_told, hide_urls
from mxworker.config.bounds import MAX_WORKERS
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


@click.command(
    cls=ServiceCommand,
    params=[click.Argument(["app"]), *options_of(LEAVES), *configuration_options()],
    exit_codes=EXIT_CODES,
    examples=(
        "mxworker run app:handlers --broker-url amqp://user:password@rabbit/",
        "mxworker run shop/app.py --workers 4 --drain-timeout 1m",
        "mxworker run app:handlers --embedded",
    ),
    epilog="A DURATION is written like 250ms, 30s, 5m or 1h, a SIZE like 512MB or 1GiB. SIGTERM and Ctrl-C drain: "
    "running handlers finish. A second Ctrl-C cancels them, a third one kills the workers. SIGHUP reloads the code.",
)
@click.option("--dies-with", type=int, hidden=True, help="The pid of the parent process, with which this one dies.")
@click.option("--ready-hint", hidden=True, default="Ctrl-C drains.", help="What to tell people beside 'Ready'.")
@click.option("--hide-workings", is_flag=True, hidden=True, help="Log no details of how mxworker works.")
@click.pass_context
def run(ctx: click.Context, /, app: str, hide_workings: bool, **flags: Any) -> None:
    """Consume the queues of APP with worker processes.

    APP is `module:attribute` or `file.py:attribute`; the attribute defaults to `handlers`.
    """
    from mxworker.system.child import bind_to_parent
    from mxworker.system.log import is_text, set_up
    from mxworker.system.terminal import Terminal

    dies_with = flags["dies_with"]
    terminal = None if dies_with is not None else Terminal()  # the parent watches its terminal and signals this process
    hide_urls(f"mxworker: run {foreign(app)}")
    set_up(flags["log_level"], flags["log_format"], hide_workings)
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
        code = _supervise(app, brokers, flags, is_text(flags["log_format"]), terminal, embedded)
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
    from mxworker.system.interpreter import write_no_more_bytecode
    from mxworker.worker import main as worker  # before the fork, so that its pages are shared

    workers, origin = flags["workers"], "set"
    if workers is None:
        cpus = usable()
        workers, origin = min(cpus.count, MAX_WORKERS), f"auto: {cpus.origin}"
    identity = settings.identity(app, flags)
    chosen = settings.tree(flags, workers)
    consumption = settings.consumption(app, brokers, chosen, settings.queue_overrides(chosen, workers))
    supervision = settings.supervision(identity.name, workers, chosen)
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
        if flags["dies_with"] is not None:
            write_no_more_bytecode()  # the app is being edited
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
        from importlib.metadata import version  # takes 10 ms

        python = ".".join(str(part) for part in sys.version_info[:3])
        self._facts = {
            "mxworker": f"{__version__}, Python {python}, aio-pika {version('aio-pika')}",
            "app": foreign(app),
            "service": foreign(name),
            **({"settings": found} if (found := sources().names) else {}),
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
