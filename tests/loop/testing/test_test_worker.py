"""`TestWorker` runs handlers as production does, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import traceback
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aio_pika
import pytest

from mxworker import (
    Ack,
    CallNext,
    CircuitBreaker,
    Context,
    Delivery,
    Handlers,
    Queue,
    Reject,
    Requeue,
    Retry,
    RetryPolicy,
)
from mxworker.errors import AppLoadError, DecodeError, Unroutable
from mxworker.testing import StillWaiting, TestWorker
from tests.loop.loops import on_both_loops

LADDER = RetryPolicy(max_retries=3, delays=(1, 5, 25))


@dataclass
class Order:
    id: int
    total: int = 0


def one(queue: str = "orders", **options: Any) -> tuple[Handlers, list[Any]]:
    """Return a registry with one handler, which fails for what is in the list that is returned too."""
    handlers, errors = Handlers(), list[Any]()

    @handlers.consume(queue, **options)
    async def handle(payload: Any, ctx: Context) -> None:
        if errors:
            raise errors.pop(0)

    return handlers, errors


# ---- one delivery


@on_both_loops
async def test_handler_gets_its_payload_decoded_and_what_it_publishes_is_seen() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Order, ctx: Context) -> None:
        await ctx.publisher.publish(Order(payload.id, 5), routing_key="orders.done", headers={"by": "test"})

    async with TestWorker(handlers) as worker:
        result = await worker.deliver("orders", {"id": 7})
        assert isinstance(result.settlement, Ack)
        assert (result.handler, result.attempt, result.error) == ("order", 1, None)
        sent = worker.assert_published("orders.done", Order(7, 5), times=1)
        assert sent.payload == {"id": 7, "total": 5}
        assert sent.headers == {"by": "test"}
        with pytest.raises(AssertionError, match=r"was published not; published were:\n  <message to 'orders.done': "):
            worker.assert_published("orders.done", Order(8, 5))


async def test_settlement_that_a_handler_chooses_is_its_result_and_no_failure() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: dict[str, Any]) -> None:
        if payload["total"] < 0:
            raise Reject("negative total")

    async with TestWorker(handlers) as worker:
        result = await worker.deliver("orders", {"total": -1})
        assert isinstance(result.settlement, Reject)
        assert result.settlement.reason == "negative total"
        (dead,) = worker.dead_letters("orders")
        assert dead.headers["mx-error"] == "negative total"
        assert worker.published == []


@on_both_loops
async def test_failure_is_raised_with_the_traceback_of_the_handler() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: dict[str, Any]) -> None:
        raise ConnectionError("the bank is away")

    async with TestWorker(handlers) as worker:
        with pytest.raises(ConnectionError, match="the bank is away") as raised:
            await worker.deliver("orders", {})
        assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "order"
        assert "attempt 1" in raised.value.__notes__[0]
        await worker.deliver("orders", {}, expect=ConnectionError)
        await worker.deliver("orders", {}, expect=Retry)
        with pytest.raises(ConnectionError):
            await worker.deliver("orders", {}, expect=KeyError)


async def test_expected_failure_that_does_not_come_is_an_error() -> None:
    handlers, _ = one()
    async with TestWorker(handlers) as worker:
        with pytest.raises(AssertionError, match=r"expected KeyError or Reject, but:\n  handle\(\) of queue 'orders'"):
            await worker.deliver("orders", {}, expect=(KeyError, Reject))


async def test_dead_letters_may_have_a_handler_in_the_same_application() -> None:
    handlers = Handlers()
    seen = asyncio.Queue[Any]()

    @handlers.consume("orders")
    async def order(payload: dict[str, Any]) -> None:
        raise Reject("no stock")

    @handlers.consume(Queue("orders.dlq", dead_letter=False))
    async def dead(payload: dict[str, Any]) -> None:
        seen.put_nowait(payload)

    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", {"total": 1})
        assert await asyncio.wait_for(seen.get(), 30) == {"total": 1}


async def test_body_that_does_not_fit_is_a_dead_letter_and_a_decode_error() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Order) -> None:
        raise AssertionError("it is not called")

    async with TestWorker(handlers) as worker:
        result = await worker.deliver("orders", {"id": "seven"}, expect=DecodeError)
        assert isinstance(result.settlement, Reject)
        assert worker.dead_letters("orders")[0].headers["mx-reason"] == "undecodable"


async def test_handler_that_wants_to_exit_fails_and_does_not_end_the_test() -> None:
    handlers, errors = one()
    errors.append(SystemExit(3))
    async with TestWorker(handlers) as worker:
        with pytest.raises(Exception, match="SystemExit: 3") as raised:
            await worker.deliver("orders", {})
        assert isinstance(raised.value.__cause__, SystemExit)


async def test_properties_and_route_of_a_delivery_are_those_that_the_test_gives() -> None:
    handlers, seen = Handlers(), []

    @handlers.consume("orders")
    async def order(delivery: Delivery) -> None:
        seen.append((delivery.exchange, delivery.routing_key, delivery.headers, delivery.message_id, delivery.body))

    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", b"raw", exchange="shop", routing_key="a.b", headers={"x": 1}, message_id="m1")
        await worker.deliver("orders", b"raw", message_id="m1")  # it comes again
    assert seen == [("shop", "a.b", {"x": 1}, "m1", b"raw"), ("", "orders", {}, "m1", b"raw")]


@on_both_loops
async def test_lifespans_middleware_and_threads_are_those_of_a_worker() -> None:
    handlers, steps, threads = Handlers(), list[str](), set[int]()

    @handlers.lifespan
    async def life() -> AsyncIterator[str]:
        steps.append("enter")
        yield "state"
        steps.append("leave")

    @handlers.middleware
    async def around(payload: Any, ctx: Context, call_next: CallNext) -> Any:
        steps.append("before")
        return await call_next(payload, ctx)

    @handlers.consume("in-thread")
    def in_thread(payload: Any, ctx: Context) -> None:
        steps.append(ctx.state)
        threads.add(threading.get_ident())
        ctx.publisher.publish_sync(b"done", routing_key="done")

    @handlers.consume("in-process", cpu=True)
    def in_process(payload: Any, ctx: Context) -> None:
        steps.append(ctx.state)

    async with TestWorker(handlers) as worker:
        await worker.deliver("in-thread", 1)
        await worker.deliver("in-process", 1)
        worker.assert_published("done", b"done")
    assert steps == ["enter", "before", "state", "before", "state", "leave"]
    assert threading.get_ident() not in threads


async def test_lifespan_that_fails_ends_the_start_with_its_reason() -> None:
    handlers, _ = one()

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        raise KeyError("DATABASE_URL")
        yield

    with pytest.raises(AppLoadError, match="DATABASE_URL"):
        async with TestWorker(handlers):
            pass


async def test_lifespan_that_hangs_or_fails_at_the_end_is_told() -> None:
    handlers, hangs = one()[0], [True]

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        if hangs:
            await asyncio.Event().wait()
        yield
        raise KeyError("at the end")

    async def run(timeout_s: float) -> None:
        async with TestWorker(handlers, timeout=timeout_s):
            pass

    with pytest.raises(AppLoadError, match=r"lifespan 'life' .* is not entered after 100ms(.|\n)*Event\(\).wait"):
        await run(0.1)
    hangs.clear()
    with pytest.raises(KeyError, match="at the end"):
        await run(10.0)


async def test_lifespan_whose_task_group_fails_ends_the_worker_with_its_error() -> None:
    handlers, _ = one()

    async def poller() -> None:
        raise ValueError("poller broke")

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(poller())
            yield

    with pytest.raises(ExceptionGroup) as caught:
        async with TestWorker(handlers):
            pass
    assert [str(error) for error in caught.value.exceptions] == ["poller broke"]


# ---- time


@on_both_loops
async def test_ladder_of_retries_passes_in_its_order_when_the_clock_is_moved() -> None:
    handlers, errors = one(retry=LADDER)
    errors += [ConnectionError(str(attempt)) for attempt in range(1, 5)]
    async with TestWorker(handlers) as worker:
        loop_began = asyncio.get_running_loop().time()
        await worker.deliver("orders", {}, expect=ConnectionError)
        assert await worker.advance(0.999) == []
        (second,) = await worker.advance(0.001, expect=ConnectionError)
        assert (second.attempt, worker.now) == (2, 1)
        third, fourth = await worker.advance(30, expect=ConnectionError)
        assert (third.attempt, fourth.attempt, worker.now) == (3, 4, 31)
        assert worker.dead_letters("orders")[0].headers["mx-attempts"] == 4
        assert asyncio.get_running_loop().time() - loop_began < 31  # the clock of the test, and not the time


async def test_retries_of_several_messages_are_handled_in_the_order_of_their_instants() -> None:
    handlers, seen = Handlers(), list[tuple[str, int]]()

    @handlers.consume("orders", retry=RetryPolicy(max_retries=2, delays=(1, 10)))
    async def order(payload: str, ctx: Context) -> None:
        seen.append((payload, ctx.attempt))
        raise Retry(after=10 if payload == "slow" else None)

    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", "slow")
        await worker.advance(5)
        await worker.deliver("orders", "quick")
        seen.clear()
        await worker.advance(100)
    assert seen == [("quick", 2), ("slow", 2), ("quick", 3), ("slow", 3)]  # at 6, 10, 16 and 20 s


async def test_failure_of_a_retry_is_raised_by_the_call_that_moves_the_clock() -> None:
    handlers, errors = one(retry=LADDER)
    errors += [ConnectionError(), KeyError("second")]
    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", {}, expect=ConnectionError)
        with pytest.raises(KeyError, match="second"):
            await worker.advance(1)


@on_both_loops
async def test_timeout_of_a_handler_falls_due_when_the_clock_is_moved() -> None:
    handlers = Handlers()

    @handlers.consume("slow", timeout=30, on_error="reject")
    async def slow(payload: Any) -> None:
        await asyncio.Event().wait()

    async with TestWorker(handlers) as worker:
        result = await worker.deliver("slow", {}, advance=30, expect=TimeoutError)
        assert isinstance(result.settlement, Reject)
        assert worker.now == 30
        waiting = asyncio.create_task(worker.deliver("slow", {}, expect=TimeoutError))
        await worker.advance(29)
        assert not waiting.done()
        await worker.advance(0.5, expect=None)
        assert not waiting.done()
        await worker.advance(0.5)
        await waiting


async def test_clock_passes_handlers_that_hang_when_it_is_told_to() -> None:
    handlers, attempts = Handlers(), list[int]()

    @handlers.consume("slow", timeout=30, retry=RetryPolicy(max_retries=2, delays=(1,)))
    async def slow(payload: Any, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        await asyncio.Event().wait()

    async with TestWorker(handlers) as worker:
        await worker.deliver("slow", {}, advance=30, expect=TimeoutError)
        results = await worker.advance(100, hangs_after=1.0, expect=TimeoutError)
        assert [result.attempt for result in results] == [2, 3]
        assert attempts == [1, 2, 3]
        assert len(worker.dead_letters("slow")) == 1


@on_both_loops
async def test_batch_is_complete_by_its_size_or_by_the_clock() -> None:
    handlers, sizes = Handlers(), list[int]()

    @handlers.consume_batch("events", size=3, wait=60)
    async def events(payloads: list[Any]) -> list[Reject | None]:
        sizes.append(len(payloads))
        return [Reject("odd") if payload % 2 else None for payload in payloads]

    async with TestWorker(handlers) as worker:
        results = await worker.deliver_many("events", [1, 2, 3])
        assert [type(result.settlement) for result in results] == [Reject, Ack, Reject]
        assert worker.now == 0
        await worker.deliver("events", 4)
        assert worker.now == 60  # its wait
        assert sizes == [3, 1]
        assert [dead.payload for dead in worker.dead_letters("events")] == [1, 3]


async def test_circuit_breaker_opens_and_is_tried_again_by_the_clock() -> None:
    handlers, errors = one(circuit_breaker=CircuitBreaker(min_deliveries=2, pause=20, trial=1), on_error="reject")
    errors += [ConnectionError(), ConnectionError()]
    async with TestWorker(handlers) as worker:
        for _ in range(2):
            await worker.deliver("orders", {}, expect=ConnectionError)
        with pytest.raises(StillWaiting, match="queue 'orders' is paused: circuit breaker"):
            await worker.deliver("orders", {}, timeout=0.05)
        delivered = asyncio.create_task(worker.deliver("orders", {}))
        await worker.advance(20)
        assert isinstance((await delivered).settlement, Ack)
        await worker.deliver("orders", {})  # the trial has passed


async def test_delivery_from_before_the_pause_does_not_pass_the_trial_of_a_circuit_breaker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers, may_end = Handlers(), asyncio.Event()
    breaker = CircuitBreaker(min_deliveries=2, pause=20, trial=1)

    @handlers.consume("orders", circuit_breaker=breaker, on_error="reject", timeout=60)
    async def order(payload: str) -> None:
        if payload == "slow":
            await may_end.wait()
        elif payload == "bad":
            raise ConnectionError

    async with TestWorker(handlers) as worker:
        slow = asyncio.create_task(worker.deliver("orders", "slow"))
        await asyncio.sleep(0)
        for _ in range(2):
            await worker.deliver("orders", "bad", expect=ConnectionError)
        await worker.advance(20)
        may_end.set()
        await slow
        assert "the trial has passed" not in caplog.text
        await worker.deliver("orders", "good")
        assert "the trial has passed" in caplog.text


# ---- what a call waits for


@on_both_loops
async def test_call_that_would_wait_for_ever_ends_with_what_it_waited_for() -> None:
    handlers = Handlers()

    @handlers.consume("stuck", timeout=30, concurrency=1)
    async def stuck(payload: Any) -> None:
        await asyncio.Event().wait()

    async def ends_with(error: BaseException) -> str:
        async with TestWorker(handlers) as worker:
            with pytest.raises(StillWaiting) as raised:
                await worker.deliver("stuck", {}, timeout=1, message_id="m1")
            text.append(str(raised.value))
            raise error

    text = list[str]()
    with pytest.raises(KeyError, match="of the test itself"):  # with which the handler is cancelled at once
        await ends_with(KeyError("of the test itself"))
    assert text[0].startswith("deliver('stuck') waited 1 s for:\n  stuck() still runs with message m1 of queue 'stuck'")
    assert "test_test_worker.py" in text[0]
    assert "its timeout is 30 s by the worker's clock" in text[0]


async def test_worker_whose_handler_hangs_at_the_end_says_so() -> None:
    handlers, may_end = Handlers(), asyncio.Event()

    @handlers.consume("stuck")
    async def stuck(payload: Any) -> None:
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    worker = await TestWorker(handlers, timeout=2.0).__aenter__()
    try:
        with pytest.raises(StillWaiting):
            await worker.deliver("stuck", {}, timeout=0.05)
        with pytest.raises(StillWaiting, match=r"the end of the worker waited 2 s for:\n  stuck\(\) still runs"):
            await worker.__aexit__(None, None, None)
    finally:
        may_end.set()


async def test_call_waits_for_all_that_a_message_leads_to() -> None:
    handlers, seen = Handlers(), list[str]()

    @handlers.consume("first")
    async def first(payload: Any, ctx: Context) -> None:
        await ctx.publisher.publish(payload, routing_key="second")

    @handlers.consume("second")
    async def second(payload: Any) -> None:
        await asyncio.sleep(0.01)
        seen.append(payload)
        if payload == "bad":
            raise KeyError("in the second")

    async with TestWorker(handlers) as worker:
        await worker.deliver("first", "good")
        assert seen == ["good"]
        with pytest.raises(KeyError, match="in the second"):
            await worker.deliver("first", "bad")


@on_both_loops
async def test_deliveries_at_the_same_time_wait_for_their_own_alone() -> None:
    handlers, may_end = Handlers(), asyncio.Event()

    @handlers.consume("orders")
    async def order(payload: str) -> None:
        if payload == "first":
            await may_end.wait()

    async with TestWorker(handlers) as worker:
        first = asyncio.create_task(worker.deliver("orders", "first"))
        await asyncio.sleep(0)
        await worker.deliver("orders", "second")
        assert not first.done()
        may_end.set()
        assert isinstance((await first).settlement, Ack)


async def test_failure_that_no_call_has_seen_is_raised_at_the_end() -> None:
    handlers = Handlers()

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        yield

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        raise KeyError("unseen")

    async def end_unseen() -> None:
        async with TestWorker(handlers) as worker:
            task = asyncio.create_task(worker.deliver("orders", {}))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

    with pytest.raises(KeyError, match="unseen"):
        await end_unseen()


# ---- copies and queues


async def test_requeue_is_handled_again_and_is_no_publish_of_the_application() -> None:
    handlers, attempts = Handlers(), list[int]()

    @handlers.consume("orders")
    async def order(payload: Any, ctx: Context) -> Requeue | None:
        attempts.append(ctx.attempt)
        return Requeue() if ctx.attempt < 3 else None

    async with TestWorker(handlers) as worker:
        assert isinstance((await worker.deliver("orders", {})).settlement, Requeue)
        assert attempts == [1, 2, 3]
        assert worker.published == []


async def test_exchanges_and_bindings_route_as_they_are_declared() -> None:
    handlers, seen = Handlers(), list[str]()

    @handlers.consume(Queue("audit", bind=[("shop", "orders.*")]))
    async def audit(payload: str) -> None:
        seen.append(payload)

    @handlers.consume("orders")
    async def order(payload: str, ctx: Context) -> None:
        await ctx.publisher.publish(payload, exchange="shop", routing_key="orders.new")
        await ctx.publisher.publish(payload, exchange="nobody's", routing_key="x")

    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", "o1")
        assert seen == ["o1"]
        worker.assert_published("x", "o1", exchange="nobody's")


async def test_strict_routing_returns_what_no_queue_takes() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: str, ctx: Context) -> None:
        await ctx.publisher.publish(payload, routing_key="nowhere")

    async with TestWorker(handlers, strict_routing=True) as worker:
        await worker.deliver("orders", "o1", expect=Unroutable)
        assert worker.published == []
    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", "o1")


async def test_queues_that_an_operator_declares_are_there() -> None:
    handlers = Handlers()
    handlers.declare(Queue("archive", declare="passive"))

    @handlers.consume(Queue("passive", declare="passive"), retry=LADDER, on_error="retry")
    async def passive(payload: Any) -> None:
        raise KeyError("a")

    @handlers.consume(Queue("off", declare="off", single_active_consumer=True), retry=LADDER)
    async def off(payload: Any) -> None:
        raise Reject("b")

    async with TestWorker(handlers) as worker:
        await worker.deliver("passive", {}, expect=KeyError)
        await worker.advance(31, expect=KeyError)
        await worker.deliver("off", {})
        assert [len(worker.dead_letters(queue)) for queue in ("passive", "off")] == [1, 1]


@on_both_loops
async def test_borrowed_channel_leads_to_the_broker_of_the_test() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: bytes, ctx: Context) -> None:
        async with ctx.channel() as channel:
            exchange = await channel.declare_exchange("shop", "fanout")
            await exchange.publish(aio_pika.Message(payload), "by-hand")

    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", b"o1")
        assert worker.assert_published("by-hand", exchange="shop").body == b"o1"


async def test_misuse_is_told() -> None:
    handlers, _ = one()
    worker = TestWorker(handlers)
    with pytest.raises(RuntimeError, match="async with"):
        await worker.deliver("orders", {})
    async with worker:
        with pytest.raises(ValueError, match="no handler consumes queue 'order'; these are consumed: orders"):
            await worker.deliver("order", {})
        with pytest.raises(ValueError, match="goes forward only"):
            await worker.advance(-1)


@on_both_loops
async def test_nothing_is_left_behind() -> None:
    handlers, _ = one()
    before = threading.active_count(), asyncio.all_tasks()
    for _ in range(2):
        async with TestWorker(handlers) as worker:
            await worker.deliver("orders", {})
            running = weakref.ref(worker._running)
    assert (threading.active_count(), asyncio.all_tasks()) == before
    await asyncio.sleep(0)
    gc.collect()
    assert running() is None  # no timer of the loop has it


async def test_no_signal_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers, sent = one()[0], list[tuple[int, int]]()
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    async with TestWorker(handlers) as worker:
        await worker.deliver("orders", {})
    assert sent == []
