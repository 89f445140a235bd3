"""What a worker on a real broker leaves on the board: publishes, connections, channels, losses, and what waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mxworker import Context, Handlers, Publisher, PublisherSettings, Queue
from mxworker.board.metric_values import ConsumerMetrics, ExchangeMetrics, ProcessMetrics
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import Outcome
from mxworker.config.pool import PoolSettings
from mxworker.errors import PublishNacked, PublishOverflow, Unroutable
from tests.broker.workers import Worker, running
from tests.harness.proxy import How, proxy_to
from tests.harness.retries import FAST
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.raw import raw_properties

SOON_S = 30.0


class Board:
    """The part of the board that the worker of a test writes."""

    def __init__(self, worker: Worker) -> None:
        self.used = [worker.slot]


def process(worker: Worker) -> ProcessMetrics:
    return fold(Board(worker)).processes[0]


def consumer(worker: Worker) -> ConsumerMetrics:
    return fold(Board(worker)).consumers[0]


def exchange(worker: Worker, name: str = "") -> ExchangeMetrics | None:
    return next((each for each in fold(Board(worker)).exchanges if each.exchange == name), None)


def now(worker: Worker) -> ProcessMetrics:
    """Return the metrics of the process, without waiting for the heartbeat."""
    worker.service.parts.metrics.write()
    return process(worker)


async def test_publishes_are_counted_by_exchange_and_outcome(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers, output, full = Handlers(), f"{queue_name}.out", f"{queue_name}.full"
    admin.declare(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}, durable=False, exclusive=True)
    admin.declare(output, durable=False, exclusive=True)

    @handlers.consume(queue_name)
    async def relay(body: bytes, ctx: Context) -> None:
        for key, error in ((output, None), (f"{queue_name}.none", Unroutable), (full, PublishNacked)):
            if error is None:
                await ctx.publisher.publish(b"12345", routing_key=key)
            else:
                with pytest.raises(error):
                    await ctx.publisher.publish(b"12345", routing_key=key)

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)
        found = exchange(worker)
        assert found is not None
        assert {name: count for name, count in found.outcomes.items() if count} == {
            "confirmed": 1,
            "returned": 1,
            "nacked": 1,
        }
        assert found.bytes_sent == 5
        assert process(worker).confirm_duration.count == 1
        assert process(worker).confirm_duration.sum_s < SOON_S


@pytest.mark.parametrize("overflow", ["raise", "drop"])
async def test_publishes_at_a_full_window_are_counted(
    broker_url: str, queue_name: str, admin: Client, overflow: Any
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name)
    async def relay(body: bytes, ctx: Context) -> None:
        first = ctx.publisher.publish_nowait(b"1", routing_key=f"{queue_name}.out", mandatory=False)
        try:
            second = ctx.publisher.publish_nowait(b"2", routing_key=f"{queue_name}.out", mandatory=False)
            await second
        except PublishOverflow:
            pass
        await first

    settings = PublisherSettings(max_in_flight=1, overflow=overflow)
    async with running(broker_url, handlers, publisher=settings) as worker:
        await worker.settle_one(admin, queue_name)
        found = exchange(worker)
        assert found is not None
        assert (found.outcomes["confirmed"], found.outcomes["overflow"], found.outcomes["dropped"]) == (
            1,
            overflow == "raise",
            overflow == "drop",
        )


async def test_connections_channels_and_the_wait_for_a_borrowed_one_are_shown(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, gate = Handlers(), asyncio.Event()
    seen: list[object] = []

    @handlers.consume(queue_name)
    async def borrow(body: bytes, ctx: Context) -> None:
        async with ctx.channel():
            seen.append(ctx.pool_stats.borrowed_channels)
            await gate.wait()

    async with running(broker_url, handlers, pool=PoolSettings(max_connections=3)) as worker:
        admin.publish(queue_name, [b"1"])
        await until(lambda: seen, SOON_S, "the handler")
        found = now(worker)
        assert found.connections["consume", "active"] == found.connections["publish", "active"] == 1
        assert found.connections["handlers", "active"] == found.channels["handlers", "active"] == 1
        assert found.channels["consume", "active"] == 1
        assert found.channels["publish", "active"] >= 1
        assert (found.borrowed_channels, found.pool_wait.count, seen) == (1, 1, [1])
        assert consumer(worker).in_flight == consumer(worker).slots - 31 == 1
        gate.set()
        await until(lambda: worker.count(Outcome.ACK) == 1, SOON_S, "the ack")
        assert now(worker).connections["handlers", "idle"] == 1
        worker.service.parts.consumers[0].pause("test")
        await until(lambda: now(worker).channels["consume", "idle"] == 1, SOON_S, "the pause")
        assert consumer(worker).is_paused
        worker.service.parts.consumers[0].resume("test")
        await until(lambda: now(worker).channels["consume", "active"] == 1, SOON_S, "its end")
        assert not consumer(worker).is_paused


async def test_lost_connections_are_counted_by_their_reason(broker_url: str, queue_name: str) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name)
    async def take(body: bytes) -> None: ...

    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers) as worker:
        assert set(process(worker).reconnects.values()) == {0}
        proxy.cut(How.RST)
        await until(lambda: process(worker).reconnects["lost"] >= 2, SOON_S, "the losses")
        await until(lambda: now(worker).connections["consume", "active"] == 1, SOON_S, "the next connection")
        assert sum(process(worker).reconnects.values()) == process(worker).reconnects["lost"]


async def test_what_waits_here_and_what_came_is_shown(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers, gate = Handlers(), asyncio.Event()

    @handlers.consume(Queue(queue_name), concurrency=2, prefetch=10, objective="5m")
    async def hold(body: bytes) -> None:
        await gate.wait()

    before = time.time()
    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"123"] * 20)
        await until(lambda: now(worker) and consumer(worker).prefetched == 8, SOON_S, "the prefetch")
        found = consumer(worker)
        assert (found.in_flight, found.slots, found.bytes_received, found.objective_s) == (2, 2, 30, 300)
        assert found.last_delivery_unix_s >= before - 1
        busy_s = found.busy_s
        await until(lambda: now(worker) and consumer(worker).busy_s > busy_s, SOON_S, "the time of what runs")
        gate.set()
        await until(lambda: worker.count(Outcome.ACK) == 20, SOON_S, "all")
    assert (consumer(worker).bytes_received, consumer(worker).in_flight, consumer(worker).prefetched) == (60, 0, 0)
    assert process(worker).cpu_s > 0


async def test_the_time_to_success_counts_from_the_first_publish_through_all_retries(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, retry=FAST)
    async def fail_once(body: bytes, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("no")

    async with running(broker_url, handlers) as worker:
        published = int(time.time()) - 50
        admin.publish_raw(queue_name, b"1", raw_properties(delivery_mode=2, timestamp=published))
        await until(lambda: worker.count(Outcome.ACK) == 1, SOON_S, "the success")
    found = consumer(worker)
    assert (found.outcomes["retry"], found.failures, found.age.count) == (1, {"ValueError": 1}, 2)
    assert found.end_to_end.count == 1
    assert found.end_to_end.sum_s >= 50


async def test_counts_that_were_overwritten_hold_up_neither_heartbeats_nor_publishes(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, outcomes = Handlers(), []

    @handlers.consume(queue_name)
    async def overwrite(body: bytes, ctx: Context) -> None:
        admin.declare(f"{queue_name}.out", durable=False, exclusive=True)
        saved = bytes(worker.slot.metrics)
        worker.slot.metrics[:] = b"\xff" * len(saved)
        worker.service.parts.metrics.write()
        outcomes.append(await ctx.publisher.publish(b"1", routing_key=f"{queue_name}.out"))
        worker.slot.metrics[:] = saved

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)
    assert len(outcomes) == 1


async def test_a_publisher_that_stands_alone_counts_nothing(broker_url: str, queue_name: str, admin: Client) -> None:
    admin.declare(queue_name, durable=False, exclusive=True)
    async with Publisher.connect(broker_url) as publisher:
        await publisher.publish(b"1", routing_key=queue_name)
        assert publisher.stats.open_channels >= 1
