"""`def` handlers: in threads, bounded, and never settled while their thread may still be at work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from mxworker import Context, Handlers, Reject
from mxworker.worker.handling.threads import Threads
from tests.harness.runners import Channel, at_work, deliveries
from tests.harness.waiting import until

SOON_S = 60.0
FOR_EVER_S = 60.0


async def test_handler_runs_beside_the_loop_and_its_outcome_counts() -> None:
    handlers = Handlers()
    threads: set[int] = set()

    @handlers.consume("queue", retry=None)
    def take(message_id: str, ctx: Context) -> object:
        threads.add(threading.get_ident())
        if ctx.delivery.delivery_tag == 2:
            raise Reject("no")
        return Reject if ctx.delivery.delivery_tag == 3 else None

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 4):
        bench.runner.admit(delivery)
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert (sorted(channel.acked), sorted(channel.rejected)) == ([1, 4], [2, 3])
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
async def test_whatever_a_thread_raises_is_a_failure_of_its_delivery(error: BaseException) -> None:
    handlers = Handlers()

    @handlers.consume("queue", retry=None)
    def fail(body: bytes) -> None:
        raise error

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.rejected == [1]
    assert not bench.broken


async def test_threads_are_bounded_by_the_handlers_concurrency_and_used() -> None:
    handlers = Handlers()
    lock, running, most = threading.Lock(), 0, 0

    @handlers.consume("queue", concurrency=3)
    def count(body: bytes) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 40):
        bench.runner.admit(delivery)
    await until(lambda: len(channel.acked) == 40, SOON_S, "all")
    assert most == 3


async def test_context_variables_reach_the_thread_and_do_not_come_back() -> None:
    handlers = Handlers()
    trace: ContextVar[str] = ContextVar("trace", default="")
    seen: list[tuple[str, str]] = []

    @handlers.middleware
    async def tracing(payload: str, ctx: Context, call_next: Any) -> Any:
        before = trace.get()
        trace.set(payload)
        outcome = await call_next(payload, ctx)
        seen.append((before, trace.get()))
        return outcome

    @handlers.consume("queue", concurrency=1)
    def take(body: str) -> None:
        assert trace.get() == "x"
        trace.set("of the thread")

    bench, channel = at_work(handlers, threads=1), Channel()
    for delivery in deliveries(channel, 3, b"x"):
        bench.runner.admit(delivery)
    await until(lambda: len(channel.acked) == 3, SOON_S, "all")
    assert seen == [("", "x")] * 3


# ---- out of time


async def test_delivery_stays_unsettled_until_its_thread_has_ended_and_success_counts() -> None:
    handlers = Handlers()
    release = threading.Event()

    @handlers.consume("queue", concurrency=1, timeout=0.03, retry=None)
    def hold(body: bytes) -> None:
        release.wait(FOR_EVER_S)

    bench, channel = at_work(handlers, grace_s=0.03), Channel()
    for delivery in deliveries(channel, 2):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.stuck, SOON_S, "it to be stuck")
    await asyncio.sleep(0.1)  # for what must not happen
    assert channel.settled == 0
    assert (bench.runner.running, bench.runner.waiting) == (1, 1)
    release.set()
    await until(lambda: channel.acked == [1, 2], SOON_S, "both")
    assert bench.runner.stuck == 0


async def test_failure_after_the_deadline_is_its_own() -> None:
    handlers = Handlers()
    release = threading.Event()

    @handlers.consume("queue", timeout=0.03, on_error="requeue", reject_on=[ValueError])
    def hold(body: bytes) -> None:
        release.wait(FOR_EVER_S)
        raise ValueError("boom")

    bench, channel = at_work(handlers, grace_s=0.01), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await until(lambda: bench.runner.stuck, SOON_S, "it to be stuck")
    release.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.rejected == [1]


async def test_report_of_a_stuck_thread_names_its_line(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    release = threading.Event()

    @handlers.consume("queue", timeout=0.03)
    def sleepy(body: bytes) -> None:
        release.wait(FOR_EVER_S)

    bench, channel = at_work(handlers, grace_s=0.02), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await until(lambda: bench.runner.stuck, SOON_S, "it to be stuck")
    _, first = inspect.getsourcelines(sleepy)
    assert f"{__file__}:{first + 2} sleepy" in caplog.text
    assert "handler sleepy is stuck on message" in caplog.text
    release.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.acked == [1]


async def test_call_that_has_not_begun_is_cancelled_and_never_begins() -> None:
    threads, release, began = Threads(1), threading.Event(), threading.Event()
    first = asyncio.create_task(threads.call(release.wait, FOR_EVER_S))
    second = asyncio.create_task(threads.call(began.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    assert await first is True
    assert await threads.call(began.is_set) is False


async def test_call_goes_on_until_its_thread_has_ended_however_often_it_is_cancelled() -> None:
    threads, release, began = Threads(1), threading.Event(), threading.Event()

    def hold() -> str:
        began.set()
        release.wait(FOR_EVER_S)
        return "done"

    call = asyncio.create_task(threads.call(hold))
    await until(began.is_set, SOON_S, "the thread to begin")
    for _ in range(3):
        call.cancel()
        await asyncio.wait({call}, timeout=0.03)
        assert not call.done()
    release.set()
    assert await call == "done"


async def test_call_that_is_cancelled_in_the_moment_of_its_end_has_its_outcome() -> None:
    threads, ended = Threads(1), threading.Event()
    call = asyncio.create_task(threads.call(ended.set))
    await asyncio.sleep(0)
    ended.wait(SOON_S)
    threads._pool.submit(int).result(SOON_S)  # the thread has told the loop, which has not turned yet
    asyncio.get_running_loop().call_soon(call.cancel)
    assert await call is None


async def test_thread_that_is_cut_short_leaves_its_delivery_unless_it_still_succeeds() -> None:
    handlers = Handlers()
    release, began = threading.Event(), threading.Barrier(3)

    @handlers.consume("queue", concurrency=2)
    def hold(body: bytes, ctx: Context) -> None:
        began.wait(SOON_S)
        release.wait(FOR_EVER_S)
        if ctx.delivery.delivery_tag == 2:
            raise ValueError

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 2):
        bench.runner.admit(delivery)
    await asyncio.sleep(0)
    began.wait(SOON_S)
    bench.runner.cut_short()
    release.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.acked == [1]
    assert channel.settled == 1
    assert not bench.broken
