"""What a worker does with a delivery: in this process, on a real broker, through the whole pipeline."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

import pytest
from pamqp import commands

from mxworker import Ack, Context, Delivery, Handlers, Queue, Reject, Requeue
from mxworker.api.handlers import compile_handlers
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.errors import ExitCode
from mxworker.worker.assembly import assemble
from tests.broker.workers import running
from tests.harness.waiting import until
from tests.rabbit.client import Client


async def dead_letters(admin: Client, queue: str, count: int) -> list[bytes]:
    """Wait for `count` messages in the dead-letter queue and take them out."""
    await until(lambda: admin.counts(f"{queue}.dlq").messages >= count, 10, f"{count} dead letters")
    return [message.body for message in admin.drain(f"{queue}.dlq")]


async def test_each_settlement_does_what_it_says(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    seen: list[tuple[bytes, bool]] = []

    @handlers.consume(queue_name, retry=None)
    async def settle(message: Delivery) -> object:
        seen.append((message.body, message.redelivered))
        match message.body:
            case b"returns None":
                return None
            case b"returns Ack":
                return Ack()
            case b"raises Reject":
                raise Reject("no")
            case b"returns the class Reject":
                return Reject
            case b"returns Requeue once":
                return None if seen.count((message.body, False)) == 2 else Requeue()
            case b"returns a number":
                return 42
            case _:
                raise ValueError("boom")

    bodies = [b"returns None", b"returns Ack", b"raises Reject", b"returns the class Reject", b"returns Requeue once"]
    bodies += [b"returns a number", b"raises ValueError"]
    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, bodies)
        rejected = await dead_letters(admin, queue_name, 4)
        await until(lambda: len(seen) == len(bodies) + 1, 10, "all deliveries")
    assert sorted(rejected) == [
        b"raises Reject",
        b"raises ValueError",
        b"returns a number",
        b"returns the class Reject",
    ]
    assert seen.count((b"returns Requeue once", False)) == 2, "what comes again is a copy"
    assert [worker.count(word) for word in (Outcome.ACK, Outcome.REQUEUE, Outcome.REJECT, Outcome.STALE)] == [
        3,
        1,
        4,
        0,
    ]
    assert admin.counts(queue_name).messages == 0


async def test_bodies_are_decoded_by_annotation_and_undecodable_ones_are_dead_letters(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    seen: list[object] = []

    @handlers.consume(queue_name, retry=None)
    async def take(payload: dict[str, Any], ctx: Context) -> None:
        seen.append((payload, ctx.queue, ctx.handler, ctx.delivery.message_id, ctx.is_stale))

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"not json", b"[1]", b'{"a": "\xff"}', b"[" * 5000])
        admin.publish(queue_name, [b'{"id": 1}'], commands.Basic.Properties(message_id="m-1", delivery_mode=2))
        assert len(await dead_letters(admin, queue_name, 4)) == 4
        await until(lambda: seen, 10, "the good one")
    assert seen == [({"id": 1}, queue_name, "take", "m-1", False)]


async def test_handler_past_its_deadline_is_cancelled_and_rejected(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    cancelled = []

    @handlers.consume(queue_name, timeout=1, retry=None)
    async def slow(body: str) -> None:
        try:
            await asyncio.sleep(0 if body == "quick" else 3600)
        except asyncio.CancelledError:
            cancelled.append(body)
            raise

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"slow", b"quick", b"slow"])
        assert await dead_letters(admin, queue_name, 2) == [b"slow", b"slow"]
    assert cancelled == ["slow", "slow"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class NeedsAnArgument(Reject):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


@pytest.mark.parametrize(
    "how",
    [
        "unprintable",
        "settlement class with arguments",
        "SystemExit",
        "KeyboardInterrupt",
        "cancels itself",
        "awaits a cancelled future",
    ],
)
async def test_nothing_a_handler_raises_ends_the_worker(
    how: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, retry=None)
    async def wild(body: str) -> object:
        match body:
            case "SystemExit":
                raise SystemExit(3)
            case "KeyboardInterrupt":
                raise KeyboardInterrupt
            case "unprintable":
                raise Unprintable
            case "settlement class with arguments":
                return NeedsAnArgument
            case "cancels itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case _:
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
        return None

    async with running(broker_url, handlers):
        admin.publish(queue_name, [how.encode()])
        assert await dead_letters(admin, queue_name, 1) == [how.encode()]


async def test_concurrency_is_bounded_and_used(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    running_now, most = 0, 0

    @handlers.consume(queue_name, concurrency=7)
    async def count(body: bytes) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.01)
        running_now -= 1

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b""] * 200)
        await until(lambda: worker.count(Outcome.ACK) == 200, 20, "all")
    assert most == 7


async def test_started_deliveries_stand_in_the_board(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume(queue_name)
    async def hold(body: bytes) -> None:
        await release.wait()

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b""], commands.Basic.Properties(message_id="m-7", delivery_mode=2))
        held = await until(worker.slot.told.in_flight, 10, "the delivery in the board")
        assert [(one.handler, one.message_id, one.delivery_tag) for one in held] == [("hold", "m-7", 1)]
        release.set()
        await until(lambda: not worker.slot.told.in_flight(), 10, "the board to be empty")


async def test_handlers_outlive_a_lost_channel_and_know_it(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    release = asyncio.Event()
    held: list[Context] = []

    @handlers.consume(Queue(queue_name), concurrency=4)
    async def hold(body: bytes, ctx: Context) -> None:
        held.append(ctx)
        await release.wait()

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"1", b"2"])
        await until(lambda: len(held) == 2, 10, "both to run")
        assert not any(ctx.is_stale for ctx in held)
        admin.delete(queue_name)
        await until(lambda: all(ctx.is_stale for ctx in held), 10, "the loss to be seen")
        release.set()
        await until(lambda: worker.count(Outcome.STALE) == 2, 10, "both to finish")
        await until(lambda: worker.service.state is WorkerState.READY, 10, "the queue to be consumed again")
    assert worker.count(Outcome.ACK) == 0


async def test_what_a_handler_leaves_in_its_context_is_not_seen_by_the_next(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    trace: ContextVar[str] = ContextVar("trace", default="")
    seen: list[str] = []

    @handlers.consume(queue_name, concurrency=1)
    async def note(body: str) -> None:
        seen.append(trace.get())
        trace.set(body)

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"1", b"2", b"3"])
        await until(lambda: len(seen) == 3, 10, "all")
    assert seen == ["", "", ""]


async def test_drain_gives_back_what_was_not_started(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    done = []

    @handlers.consume(queue_name, concurrency=2, prefetch=50)
    async def slow(body: str) -> None:
        await asyncio.sleep(0.3)
        done.append(body)

    bodies = [str(number).encode() for number in range(60)]
    async with running(broker_url, handlers):
        admin.publish(queue_name, bodies)
        await until(lambda: len(done) >= 2, 10, "some to finish")
    left = [message.body.decode() for message in admin.drain(queue_name)]
    assert len(done) <= 6
    assert sorted(done + left) == sorted(body.decode() for body in bodies)


async def test_single_active_consumer_drains_too(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    done = []

    @handlers.consume(Queue(queue_name, arguments={"x-single-active-consumer": True}))
    async def take(body: str) -> None:
        done.append(body)

    async with running(broker_url, handlers):
        admin.publish(queue_name, [str(number).encode() for number in range(200)])
        await until(lambda: len(done) >= 50, 10, "some")
    assert len(set(done)) == len(done)
    # such a queue refuses basic.get, and may take back what was handled last
    await until(lambda: len(done) + admin.counts(queue_name).messages >= 200, 10, "what was given back")
    total = len(done) + admin.counts(queue_name).messages
    assert total < 200 + len(done), "all that was handled is back: not one ack has arrived"


async def test_stop_before_anything_is_connected_ends_at_once(queue_name: str) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name)
    async def never(body: bytes) -> None:
        raise AssertionError

    board = Board(1)
    settings = Consumption(app="test", brokers=Brokers.parse(["amqp://127.0.0.1:1/"]))
    service = assemble(settings, compile_handlers(handlers), board.slot(1), lambda: True, lambda state: None)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    asked_at = time.monotonic()
    service.request_stop()
    service.request_stop()
    assert await asyncio.wait_for(task, 60) is ExitCode.OK
    assert time.monotonic() - asked_at < 20  # far from the 30 s that it would wait for a broker
