"""A dump says of each handler that runs which message it has, for how long, and where it is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mxworker import Handlers
from mxworker.worker.dump import HANDLERS_SHOWN, dump, dump_stack
from mxworker.worker.handling.handler_runner import HandlerRunner
from tests.harness.runners import Channel, at_work, deliveries
from tests.harness.waiting import until
from tests.loop.loops import on_both_loops

SOON_S = 60.0


@on_both_loops
async def test_each_running_handler_is_told_with_message_age_and_place(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("orders", concurrency=2)
    async def order(body: bytes) -> None:
        await nested()

    async def nested() -> None:
        await release.wait()

    bench = at_work(handlers)
    for delivery in deliveries(Channel(), 3):
        bench.runner.admit(delivery)
    await asyncio.sleep(0.15)  # for their age
    dump(7, bench.runners, sys._getframe())
    first, *told, last = caplog.messages
    assert first == "worker 7: handlers that run: 2; deliveries that wait for one: 1"
    for tag, line in enumerate(told, start=1):
        assert f"worker 7 runs handler order with message (no id) (delivery tag {tag}) of queue orders, for " in line
        assert re.search(r"test_dump.py:\d+ order > \S*test_dump.py:\d+ nested > ", line)
        assert float(line.partition(", for ")[2].split()[0]) >= 0.1
    assert len(told) == 2
    assert last.startswith("worker 7 is at ")
    release.set()
    await bench.runner.finished()


async def test_def_handler_is_where_its_thread_is(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    entered, release = threading.Event(), threading.Event()

    @handlers.consume("orders")
    def order(body: bytes) -> None:
        entered.set()
        release.wait(SOON_S)

    bench = at_work(handlers)
    for delivery in deliveries(Channel(), 1):
        bench.runner.admit(delivery)
    await until(entered.is_set, SOON_S)
    dump(1, bench.runners, None)
    release.set()
    await bench.runner.finished()
    assert re.search(r"test_dump.py:\d+ order > \S*threading.py:\d+ wait", caplog.text)


async def test_batch_is_told_by_its_first_message(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume_batch("orders", size=3, wait=SOON_S)
    async def order(bodies: list[bytes]) -> None:
        await release.wait()

    bench = at_work(handlers)
    for delivery in deliveries(Channel(), 3):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.running, SOON_S)
    dump(1, bench.runners, None)
    release.set()
    await bench.runner.finished()
    assert "with message (no id) and 2 more (delivery tag 1)" in caplog.text


async def test_dump_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("orders", concurrency=200)
    async def order(body: bytes) -> None:
        await release.wait()

    bench = at_work(handlers)
    for delivery in deliveries(Channel(), 200):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.running == 200, SOON_S)
    dump(1, bench.runners, None)
    release.set()
    await bench.runner.finished()
    assert sum("runs handler" in line for line in caplog.messages) == HANDLERS_SHOWN
    assert "worker 1 runs 150 more" in caplog.messages


@on_both_loops
async def test_signal_gets_its_answer_from_inside_a_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(body: bytes) -> None:
        block()

    def block() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        while not caplog.messages:
            pass

    bench = at_work(handlers)
    with dumping(bench.runners):
        for delivery in deliveries(Channel(), 1):
            bench.runner.admit(delivery)
        await bench.runner.finished()
    assert "worker 1 is inside handler order with message (no id) (delivery tag 1)" in caplog.text
    assert re.search(r"worker 1 is at .*test_dump.py:\d+ block$", caplog.text, re.MULTILINE)


@on_both_loops
async def test_signal_gets_its_answer_from_an_idle_loop(caplog: pytest.LogCaptureFixture) -> None:
    with dumping([]):
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: "worker 1: handlers that run: 0" in caplog.text, SOON_S)


@contextmanager
def dumping(runners: list[HandlerRunner]) -> Iterator[None]:
    """Dump on SIGUSR1, as a worker does; it has other handlers in its loop, too."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGURG, lambda: None)
    former = signal.signal(signal.SIGUSR1, lambda _, frame: dump(1, runners, frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, former)
        loop.remove_signal_handler(signal.SIGURG)


def test_before_there_is_a_loop_only_the_place_is_told(caplog: pytest.LogCaptureFixture) -> None:
    dump_stack(3, sys._getframe())
    (line,) = caplog.messages
    assert line.startswith("worker 3 is at ")
    assert line.endswith("test_before_there_is_a_loop_only_the_place_is_told")
