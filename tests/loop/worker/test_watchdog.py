"""A blocked event loop is told of while it is blocked: by what, and at which line. One that is not is left alone."""

from __future__ import annotations

import asyncio
import functools
import linecache
import logging
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mxworker import Context, Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.api.middleware import CallNext
from mxworker.worker import blocking
from mxworker.worker.block_clock import BLOCKED_AFTER_S, LOOK_EVERY_S, Spent
from mxworker.worker.blocking import blocker_of, handlers_in_threads
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.thread_times import ThreadTimes
from mxworker.worker.watchdog import Watchdog
from tests.harness.runners import Channel, at_work, deliveries
from tests.harness.waiting import until
from tests.loop.loops import on_both_loops
from tests.rabbit.raw import raw_properties

SOON_S = 30.0
_TRIES = 10  # of a call that the watchdog may see as an ordinary block
Caplog = pytest.LogCaptureFixture


@contextmanager
def watching(runners: list[HandlerRunner]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(1, loop, lambda frame: blocker_of(frame, loop, runners))
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def block(caplog: Caplog, times: int = 1) -> None:
    """Block until it was told of."""
    deadline = time.monotonic() + SOON_S
    while len(told(caplog)) < times and time.monotonic() < deadline:
        time.sleep(0.01)


def told(caplog: Caplog) -> list[logging.LogRecord]:
    return [record for record in list(caplog.records) if "has blocked the event loop for" in record.getMessage()]


async def run_one(handlers: Handlers, caplog: Caplog) -> logging.LogRecord:
    """Give the handler one delivery and return what is told while it is at work."""
    bench = at_work(handlers)
    with watching(bench.runners):
        for delivery in deliveries(Channel(), 1):
            delivery.raw_properties = raw_properties(content_type=b"application/x-slow", message_id=b"the-id")
            bench.runner.admit(delivery)
        await bench.runner.finished()
        await until(lambda: "the event loop runs again" in caplog.text, SOON_S)
    (record,) = told(caplog)
    return record


async def test_the_time_that_the_loop_took_to_answer_is_shown_while_it_is_blocked() -> None:
    loop, shown = asyncio.get_running_loop(), [0.0]
    watchdog = Watchdog(1, loop, lambda frame: blocker_of(frame, loop, []), show_lag=shown.append)
    watchdog.start()
    try:
        await until(lambda: len(shown) > 2, SOON_S, "looks")
        deadline = time.monotonic() + SOON_S
        while shown[-1] < 0.6 and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 - it blocks the loop
        assert shown[-1] >= 0.6, "it is shown although the loop has not answered yet"
        looks = len(shown)
        await until(lambda: len(shown) > looks + 2, SOON_S, "looks after the block")
        assert shown[-1] >= 0.6, "a short block is seen by who looks every few seconds"
    finally:
        watchdog.stop()


@on_both_loops
async def test_handler_that_blocks_is_told_with_its_line_and_what_to_do(caplog: Caplog) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(body: bytes) -> None:
        nested()

    def nested() -> None:
        block(caplog)

    record = await run_one(handlers, caplog)
    text = record.getMessage()
    assert record.levelno == logging.WARNING
    assert text.startswith("worker 1: handler order (message the-id) has blocked the event loop for ")
    assert f"{__file__}:" in text
    assert "in block: " in text
    assert "use a plain 'def', which runs in a thread, or cpu=True" in text
    facts = vars(record)
    assert (facts["handler"], facts["queue"], facts["message_id"]) == ("order", "orders", "the-id")
    assert facts["blocked_s"] >= BLOCKED_AFTER_S
    assert facts["place"].startswith(f"{__file__}:")
    (end,) = [record for record in caplog.records if "runs again" in record.getMessage()]
    assert "handler order (message the-id) had blocked it for " in end.getMessage()
    assert vars(end)["blocked_s"] >= facts["blocked_s"]


async def test_handler_that_spins_is_told(caplog: Caplog) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(body: bytes) -> None:
        while not told(caplog):
            pass

    assert "handler order (message the-id) has blocked" in (await run_one(handlers, caplog)).getMessage()


async def test_code_that_keeps_the_interpreters_lock_is_told_when_it_gives_it_back(caplog: Caplog) -> None:
    handlers = Handlers()
    slow = re.compile("(a+)+$")
    asyncio.get_running_loop().set_debug(False)
    linecache.getline(__file__, 1)  # each file that is read costs one more call below

    @handlers.consume("orders")
    async def order(body: bytes) -> None:
        length, took_s = 20, 0.0
        while took_s < LOOK_EVERY_S:  # of one call, on any machine: each takes twice as long
            length += 1
            begin = time.thread_time()
            slow.match("a" * length + "b")
            took_s = time.thread_time() - begin
        while not told(caplog):
            slow.match("a" * length + "b")

    record = await run_one(handlers, caplog)
    assert "handler order (message the-id) has blocked" in record.getMessage()
    assert ": slow.match(" in record.getMessage(), "it is found in the very call, not after it"


async def answered(watchdog: Watchdog) -> None:
    """Wait until the loop has answered once more."""
    before_s = watchdog._answered_at
    await until(lambda: watchdog._answered_at > before_s, SOON_S)


@functools.cache
def keeping_the_lock() -> Callable[[], object]:
    """Return a call that keeps the interpreter's lock for some seconds on a CPU."""
    slow, length, took_s = re.compile("(a+)+$"), 20, 0.0
    while took_s < 1.5 * BLOCKED_AFTER_S:  # each takes twice as long
        length += 1
        begin = time.thread_time()
        slow.match("a" * length + "b")
        took_s = time.thread_time() - begin
    return lambda: slow.match("a" * length + "b")


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_standstill_of_all_threads_is_told_afterwards_and_shown_as_lag(caplog: Caplog, kind: str) -> None:
    """The loop had answered, and the watchdog slept when the call began."""
    handlers, keep_the_lock = Handlers(), keeping_the_lock()
    loop, shown = asyncio.get_running_loop(), [0.0]

    def standstills() -> list[logging.LogRecord]:
        return [record for record in list(caplog.records) if "stood still" in record.getMessage()]

    async def order(body: bytes) -> None:
        for _ in range(_TRIES):
            if standstills():
                break
            await answered(watchdog)
            keep_the_lock()

    def report(body: bytes) -> None:
        for _ in range(_TRIES):
            if standstills():
                break
            time.sleep(0.1)
            keep_the_lock()

    handlers.consume("orders", timeout=600)(order if kind == "async" else report)
    bench = at_work(handlers)
    watchdog = Watchdog(
        1,
        loop,
        lambda frame: blocker_of(frame, loop, bench.runners),
        show_lag=shown.append,
        handlers_in_threads=lambda: handlers_in_threads(bench.runners),
    )
    watchdog.start()
    try:
        for delivery in deliveries(Channel(), 1):
            bench.runner.admit(delivery)
        await bench.runner.finished()
    finally:
        watchdog.stop()
    record = standstills()[0]
    text = record.getMessage()
    assert vars(record)["event"] == "interpreter_blocked"
    assert vars(record)["blocked_s"] >= BLOCKED_AFTER_S
    assert max(shown) >= BLOCKED_AFTER_S
    if kind == "async":
        assert "since handler order (message without an id) kept the interpreter's lock at " in text
        assert "slow.match(" in text
    else:
        assert "since a call in a thread kept the interpreter's lock; handlers that run in threads: report;" in text


async def test_the_line_is_found_before_anything_lets_the_handler_go_on(
    caplog: Caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers, goes_on, is_past = Handlers(), threading.Event(), threading.Event()
    begun_at: list[float] = []
    spent = ThreadTimes.spent

    def spent_late(times: ThreadTimes) -> Spent:
        if begun_at and time.monotonic() - begun_at[0] > BLOCKED_AFTER_S + LOOK_EVERY_S:
            goes_on.set()
            is_past.wait(SOON_S)
        return spent(times)

    monkeypatch.setattr(ThreadTimes, "spent", spent_late)

    @handlers.consume("orders")
    async def order(body: bytes) -> None:
        begun_at.append(time.monotonic())
        goes_on.wait(SOON_S)
        is_past.set()
        block(caplog)

    record = await run_one(handlers, caplog)
    assert ": goes_on.wait(" in record.getMessage()


def test_the_times_of_a_thread_are_read_without_giving_up_the_interpreters_lock() -> None:
    program = textwrap.dedent("""
        import sys, threading
        from mxworker.worker.thread_times import ThreadTimes

        may_run, has_run = threading.Event(), threading.Event()
        other = threading.Thread(target=lambda: may_run.wait() and has_run.set())
        times = ThreadTimes(threading.get_native_id())
        other.start()
        sys.setswitchinterval(60)
        may_run.set()  # from now on the other thread waits for the lock
        spent = [times.spent() for _ in range(10_000)]
        print(has_run.is_set(), spent[-1].running_s > 0)
        sys.setswitchinterval(0.005)
    """)
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=SOON_S)
    assert ran.stdout == "False True\n"


@pytest.mark.parametrize("kind", ["partial", "object", "wrapped"])
async def test_handler_is_known_whatever_kind_of_callable_it_is(caplog: Caplog, kind: str) -> None:
    handlers = Handlers()

    class Order:
        async def __call__(self, body: bytes) -> None:
            block(caplog)

    async def order(body: bytes) -> None:
        block(caplog)

    @functools.wraps(order)
    async def wrapped(body: bytes) -> None:
        await order(body)

    handlers.consume("orders")({"partial": functools.partial(order), "object": Order(), "wrapped": wrapped}[kind])
    text = (await run_one(handlers, caplog)).getMessage().lower()
    assert "handler order (message the-id) has blocked" in text


async def test_batch_that_blocks_is_told_by_its_first_message(caplog: Caplog) -> None:
    handlers = Handlers()

    @handlers.consume_batch("orders", size=3, wait=SOON_S)
    async def order(bodies: list[bytes]) -> None:
        block(caplog)

    bench = at_work(handlers)
    with watching(bench.runners):
        for delivery in deliveries(Channel(), 3):
            bench.runner.admit(delivery)
        await until(lambda: bool(told(caplog)), SOON_S)
    assert "handler order (message without an id and 2 more) has blocked" in told(caplog)[0].getMessage()


async def test_middleware_that_blocks_is_told_apart_from_its_handler(caplog: Caplog) -> None:
    handlers = Handlers()

    @handlers.middleware
    async def audit(payload: Any, ctx: Context, call_next: CallNext) -> Any:
        block(caplog)
        return await call_next(payload, ctx)

    @handlers.consume("orders")
    async def order(body: bytes) -> None: ...

    text = (await run_one(handlers, caplog)).getMessage()
    assert "middleware audit of handler order (message the-id) has blocked" in text
    assert "asyncio.to_thread" in text


async def test_codec_that_blocks_is_told_as_decoding(caplog: Caplog) -> None:
    handlers = Handlers()

    def slow(body: bytes) -> str:
        block(caplog)
        return "read"

    handlers.codec("application/x-slow", decode=slow)

    @handlers.consume("orders")
    def order(body: Any) -> None: ...

    text = (await run_one(handlers, caplog)).getMessage()
    assert "the decoding of a body for handler order (message the-id) has blocked" in text
    assert "in block: " in text


async def test_callback_and_task_of_the_application_are_told_as_such(caplog: Caplog) -> None:
    with watching([]):
        asyncio.get_running_loop().call_soon(block, caplog)
        await until(lambda: len(told(caplog)) == 1, SOON_S)
        await until(lambda: "runs again; a callback had" in caplog.text, SOON_S)

        async def refresh() -> None:
            block(caplog, times=2)

        await asyncio.create_task(refresh(), name="refresher")
        await until(lambda: "runs again; task refresher of the application had" in caplog.text, SOON_S)


@on_both_loops
async def test_callback_that_is_no_python_is_not_taken_for_the_workers_own_work(caplog: Caplog) -> None:
    blocked_s = BLOCKED_AFTER_S
    with watching([]):
        while not told(caplog) and blocked_s < SOON_S:
            blocked_s *= 2
            asyncio.get_running_loop().call_soon(time.sleep, blocked_s)
            await asyncio.sleep(0.01)
    assert "a callback that is not written in Python has blocked" in told(caplog)[0].getMessage()


def test_handler_that_wraps_itself_is_looked_at_to_an_end() -> None:
    async def order(body: bytes) -> None: ...

    order.__wrapped__ = order  # type: ignore[attr-defined]
    assert blocking._codes_of(order) == {order.__code__}


async def test_lifespan_that_blocks_is_told_as_such(caplog: Caplog) -> None:
    handlers = Handlers()

    @handlers.lifespan
    async def connect() -> AsyncIterator[None]:
        block(caplog)
        yield

    @handlers.consume("orders")
    async def order(body: bytes) -> None: ...

    lifespans = Lifespans(compile_handlers(handlers))
    with watching([]):
        await lifespans.enter()
        await lifespans.leave(0.0)
    assert "a lifespan has blocked the event loop" in told(caplog)[0].getMessage()


async def test_loop_that_blocks_again_and_again_is_told_of_within_a_budget(
    caplog: Caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxworker.worker.watchdog._MOST_TOLD", 1)
    with watching([]):
        asyncio.get_running_loop().call_soon(block, caplog)
        await until(lambda: "runs again" in caplog.text, SOON_S)
        for _ in range(2):
            time.sleep(2 * BLOCKED_AFTER_S)  # noqa: ASYNC251 - that is the point
            await asyncio.sleep(2 * LOOK_EVERY_S)
    assert len(told(caplog)) == caplog.text.count("runs again") == 1


async def test_def_handler_that_takes_its_time_blocks_nothing(caplog: Caplog) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    def order(body: bytes) -> None:
        time.sleep(BLOCKED_AFTER_S + 4 * LOOK_EVERY_S)

    bench = at_work(handlers)
    with watching(bench.runners):
        for delivery in deliveries(Channel(), 1):
            bench.runner.admit(delivery)
        await bench.runner.finished()
    assert not told(caplog)


def test_process_that_is_stopped_for_a_while_raises_no_alarm_and_a_blocked_one_does(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import asyncio, logging, sys, time
            from mxworker.worker.blocking import blocker_of
            from mxworker.worker.watchdog import Watchdog

            async def main():
                loop = asyncio.get_running_loop()
                Watchdog(1, loop, lambda frame: blocker_of(frame, loop, [])).start()
                await asyncio.sleep(1)
                print("running", flush=True)
                await loop.run_in_executor(None, sys.stdin.readline)
                await asyncio.sleep(1)
                print("blocking", file=sys.stderr, flush=True)
                time.sleep(7)

            logging.basicConfig()
            asyncio.run(main())
        """)
    )
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate("\n", timeout=60)
    before, _, after = errors.partition("blocking\n")
    assert before == ""
    assert "time.sleep(7)" in after
