"""The whole life of the observer's process: it serves HTTP and beats, until it is killed.

The master forks it and kills it at the end. It reads the board and nothing else: it waits for no worker, sends nobody
anything, has no connection to a broker, and loads no code of the application.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from setproctitle import setproctitle

from mxworker.board.page import Board
from mxworker.errors import ExitCode
from mxworker.observer.http.access import Access
from mxworker.observer.http.connections import HttpServer
from mxworker.observer.http.routes import LIVEZ, METRICS, READYZ, Route, reply_to
from mxworker.observer.overview.history import History
from mxworker.observer.overview.looking import Lookout
from mxworker.observer.pages import Page, pages
from mxworker.observer.probes import livez, readyz
from mxworker.observer.scrape.scrape import Scrape
from mxworker.observer.scrape.user_metrics import UserMetrics
from mxworker.system.child import do_nothing
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.observer")

BEAT_S = 1.0
_LATE_AFTER_S = 10.0
"""After how long without a heartbeat it is replaced, unless workers are replaced sooner.

It runs no code of the application, and no turn of its loop takes seconds. Its successor comes early enough for the
third probe of a client that asks every five seconds.
"""
_COLLECT_EVERY = 100_000
"""How many new objects make a garbage collection: more than a scrape makes, and those go without one."""
_DEAF_TO = (signal.SIGTERM, signal.SIGQUIT)
"""Signals that a terminal or service manager sends to all processes: the observer goes after the last worker."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the observer serves, where, and to whom. `metrics_directory` has the application's own metrics."""

    listening: socket.socket
    access: Access
    metrics_directory: Path | None
    heartbeat_timeout_s: float


def run(settings: Settings, board: Board) -> int:
    """Serve until the process is killed. Returns only after a failure, with the exit code."""
    for signum in _DEAF_TO:
        signal.signal(signum, do_nothing)
    setproctitle("mxworker: observer")
    gc.set_threshold(_COLLECT_EVERY)
    _forget_settings()
    try:
        asyncio.run(_serve(settings, board.of_observer()))
    except Exception:
        _LOG.exception("the observer failed", extra=log_event("observer_failed"))
    return ExitCode.RUNTIME


def _forget_settings() -> None:
    """Drop the settings of the service from the environment, which may name files with secrets."""
    for name in [name for name in os.environ if name.startswith("MXWORKER_")]:
        del os.environ[name]


async def _serve(settings: Settings, board: Board) -> None:
    lookout, history = Lookout(board), History()
    user_metrics = None if settings.metrics_directory is None else UserMetrics(settings.metrics_directory)
    routes = _routes(lookout, user_metrics, pages(history))
    server = HttpServer(lambda request: reply_to(request, settings.access, routes))
    await server.start(settings.listening)
    late_after_ns = round(min(settings.heartbeat_timeout_s, _LATE_AFTER_S) * 1e9)
    while True:
        board.beat_as_observer(time.monotonic_ns() + late_after_ns)
        history.add(lookout.view())
        if user_metrics is not None:
            user_metrics.sweep()
        await asyncio.sleep(BEAT_S)


def _routes(lookout: Lookout, user_metrics: UserMetrics | None, shown: Mapping[str, Page]) -> dict[str, Route]:
    def on_page(page: Page) -> Route:
        return lambda request: page(lookout.view())

    probes: dict[str, Route] = {
        LIVEZ: lambda request: livez(lookout.told()[1]),
        READYZ: lambda request: readyz(*lookout.told()),
    }
    scrape = Scrape(user_metrics)
    metrics: dict[str, Route] = {METRICS: lambda request: scrape.reply(lookout.view(), request.accept)}
    return {**metrics, **probes, **{path: on_page(page) for path, page in shown.items()}}
