"""What a scrape costs: a service of 32 slots with 50 handlers each, whose every series has a value.

    python -m bench.ours.scraping [--slots 32] [--handlers 50] [--rounds 50] [STEP ...]

It prints the medians of the steps: the fold of the board, the text in both formats, and a whole scrape over HTTP by
this machine's loopback, from an observer in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import orjson

from mxworker.board.metric_rows import ConsumerRow, MetricRows, observe
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import ExchangeWord, Outcome, ProcessSeconds, ProcessWord, RowSeconds, RowWord
from mxworker.board.page import Board
from mxworker.control.status import PausedStatus, ReloadStatus, ServiceStatus, WorkerStatus
from mxworker.observer import main as observer
from mxworker.observer.http.access import Access
from mxworker.observer.http.addresses import Address, address_of, listen_at
from mxworker.observer.overview.looking import Lookout
from mxworker.observer.scrape.scrape import Scrape

FOLD, FIRST_TEXT, TEXT, OPENMETRICS_TEXT = "fold", "text, first time", "text", "OpenMetrics"
WHOLE = "whole scrape over HTTP"
STEPS = (FOLD, FIRST_TEXT, TEXT, OPENMETRICS_TEXT, WHOLE)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TIMES = ((RowWord.WAIT, RowSeconds.WAIT), (RowWord.DURATION, RowSeconds.DURATION), (RowWord.AGE, RowSeconds.AGE))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS), default=STEPS)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--handlers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    board = board_of(options.slots, options.handlers)
    view, scrape = Lookout(board).view(), Scrape()
    reply = scrape.reply(view, "")
    print(
        f"{options.slots} slots, {options.handlers} handlers: {len(reply.body):,} bytes, {lines(reply.body):,} samples"
    )
    runs: dict[str, Callable[[], object]] = {
        FOLD: lambda: fold(board),
        FIRST_TEXT: lambda: Scrape().reply(view, ""),
        TEXT: lambda: scrape.reply(view, ""),
        OPENMETRICS_TEXT: lambda: scrape.reply(view, OPENMETRICS),
    }
    for step, run in runs.items():
        if step in options.steps:
            show(step, run, options.rounds)
    if WHOLE in options.steps:
        with observed(board) as connection:
            show(WHOLE, lambda: asked(connection), options.rounds)


@contextmanager
def observed(board: Board) -> Iterator[http.client.HTTPConnection]:
    """Run an observer of the board in a process of its own, and yield a connection to it."""
    with listen_at(Address(port=0)) as listening:
        address = address_of(listening)
        gc.freeze()  # as the master does before it forks
        pid = os.fork()
        if pid == 0:
            os._exit(observer.run(observer.Settings(listening, Access(address.host), None, 30.0), board))
        try:
            yield http.client.HTTPConnection(address.host, address.port, timeout=10)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def asked(connection: http.client.HTTPConnection) -> None:
    """Scrape once."""
    connection.request("GET", "/metrics")
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    reply.read()


def lines(body: bytes) -> int:
    """Return how many samples there are."""
    return sum(not line.startswith(b"#") for line in body.splitlines())


def show(step: str, run: Callable[[], object], rounds: int) -> None:
    """Run a step again and again, and print its median and its best time."""
    times_ms = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - start) * 1000)
    print(f"{step:<24} median {statistics.median(times_ms):6.1f} ms   best {min(times_ms):6.1f} ms")


def board_of(slots: int, handlers: int) -> Board:
    """Return the board of a service that has handled messages of all sorts."""
    board = Board(slots)
    for slot in board.slots:
        slot.prepare(1, False, 1)
        rows = MetricRows(slot.metrics)
        for number in range(handlers):
            work(rows.consumer(f"shop.queue-{number}", f"handler_{number}"))
        rows.process[ProcessWord.PUBLISH_IN_FLIGHT] = 5
        rows.process_seconds[ProcessSeconds.CPU] = 12.5
        exchange = rows.exchange("shop")
        exchange[ExchangeWord.CONFIRMED] = 1
        exchange[ExchangeWord.BYTES_SENT] = 100
    board.status.write(orjson.dumps(status(slots)), time.monotonic_ns())
    return board


def work(row: ConsumerRow) -> None:
    """Write to each word of a handler."""
    for outcome in Outcome:
        row.words[outcome] = 1000 + outcome
    for at, seconds_at in TIMES:
        for exponent in range(18):
            observe(row.words, at, row.seconds, seconds_at, 0.0005 * 2**exponent)
    for error in ("ValueError", "TimeoutError"):
        row.failed(error)
    row.words[RowWord.SLOTS] = 32
    row.words[RowWord.IS_CONSUMED] = 1
    row.seconds[RowSeconds.BUSY] = 123.456
    row.write_queue_facts(9, 2, 0, 0, 0, time.time() + 3600)  # not old before the end


def status(slots: int) -> ServiceStatus:
    """Return what the master tells of this service."""
    reload, paused = ReloadStatus("none", 1, "", ""), PausedStatus(False, ())
    workers = tuple(map(worker, range(1, slots + 1)))
    return ServiceStatus(
        "shop", "1", 1, "running", 0.0, 60.0, 1, slots, slots, "", "", reload, paused, (), "info", workers
    )


def worker(slot: int) -> WorkerStatus:
    """Return what the master tells of a worker that consumes."""
    texts = {"state": "running", "consuming": "ready", "reason": "beat", "last_exit": ""}
    counts = {field.name: 0 for field in fields(WorkerStatus) if field.name not in texts}
    told: dict[str, Any] = {**counts, **texts, "slot": slot, "pid": 1000 + slot, "heartbeat_age_s": 0.5}
    return WorkerStatus(**told)


if __name__ == "__main__":
    main()
