"""Channels that handlers borrow, on a real broker: what breaks one of them disturbs nobody else."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import AMQPError, DeliveryError

from mxworker import Context, Handlers
from mxworker.amqp.connecting.pool import Pool
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics_layout import Outcome
from mxworker.brokers import Brokers
from mxworker.config.pool import PoolSettings
from mxworker.errors import ConnectionLost, ExitCode, PoolExhausted
from tests.broker.workers import running as worker_running
from tests.harness.proxy import proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.node import Node
from tests.rabbit.raw import HOSTILE

SOON_S = 60.0


@asynccontextmanager
async def running(url: str, **settings: Any) -> AsyncIterator[Pool]:
    """Run a pool and wait until its own two connections are up."""
    pool = Pool(PoolSettings(**settings), Brokers.parse((url,)), "test", lambda: None, random.Random(1))
    task = asyncio.create_task(pool.run())
    await until(lambda: pool.consume_link.live and pool.publish_link.live, SOON_S, "the connections")
    try:
        yield pool
    finally:
        task.cancel()
        await asyncio.wait({task})
        await pool.close()


# ---- the pool alone


async def test_channel_is_lent_again_unless_the_broker_closed_it(broker_url: str) -> None:
    async with running(broker_url) as pool:
        async with pool.channel() as first:
            pass
        async with pool.channel() as second:
            assert second is first
            with pytest.raises(AMQPError, match="NOT_FOUND"):
                await second.declare_queue(f"missing-{uuid.uuid4().hex}", passive=True)
        async with pool.channel() as third:
            assert third is not first
            await third.declare_queue(exclusive=True)
        await until(lambda: pool.stats().total_channels == 1, SOON_S, "the broken one to be gone")


async def test_publish_on_a_borrowed_channel_is_not_lied_to(broker_url: str) -> None:
    async with running(broker_url) as pool, pool.channel() as channel:
        message = aio_pika.Message(b"to nobody")
        with pytest.raises(DeliveryError):
            await channel.default_exchange.publish(message, f"missing-{uuid.uuid4().hex}")


async def test_a_hundred_at_once_are_lent_and_the_next_one_waits_in_vain(broker_url: str) -> None:
    async with running(broker_url, max_connections=3, borrow_timeout_s=15) as pool, AsyncExitStack() as stack:
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(*(stack.enter_async_context(pool.channel()) for _ in range(100)))
        assert pool.stats().borrowed_channels == 100
        with pytest.raises(PoolExhausted, match="100 are borrowed"):
            await stack.enter_async_context(pool.channel())


async def test_channel_max_of_the_broker_is_respected(
    own_node: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond it RabbitMQ would close the connection; so it would for a number above, although few are open."""
    caplog.set_level(logging.WARNING, "mxworker")
    node = own_node(config="channel_max = 4")
    async with running(node.url, max_connections=3, borrow_timeout_s=SOON_S) as pool:
        four = asyncio.Barrier(4)

        async def borrow(number: int) -> None:
            async with pool.channel() as channel:
                if number % 2:
                    await channel.set_qos(prefetch_count=1)  # so that it is thrown away
                await four.wait()

        await asyncio.gather(*(borrow(number) for number in range(60)))
    assert not [record for record in caplog.records if "no broker" in record.getMessage()]


async def test_connection_cut_while_borrowed_is_an_error_and_the_next_borrow_works(broker_url: str) -> None:
    """After several cuts in a row, the next attempt to connect may be seconds away."""
    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), borrow_timeout_s=SOON_S) as pool:
        for _ in range(3):
            with pytest.raises((AMQPError, ConnectionLost, ConnectionError)):  # noqa: PT012  the block is what is tested
                async with asyncio.timeout(SOON_S), pool.channel() as channel:
                    proxy.cut()
                    await channel.declare_queue(exclusive=True)
            async with pool.channel() as channel:
                await channel.declare_queue(exclusive=True)
            assert pool.stats().borrowed_channels == 0


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_idle_channels_and_connections_go_and_come(broker_url: str) -> None:
    async with running(broker_url, health_check_s=0.1, idle_trim_s=0.3) as pool:
        before = descriptors()
        for _ in range(3):
            async with pool.channel() as channel:
                await channel.declare_queue(exclusive=True)
                assert descriptors() == before + 1
            await until(lambda: pool.stats().idle_connections == 0, SOON_S, "the trim")
            await until(lambda: descriptors() == before, SOON_S, "the socket to be closed")
        assert pool.stats().active_connections == 2


# ---- in a worker


async def test_handler_borrows_a_channel(broker_url: str, queue_name: str, output: str, admin: Client) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, concurrency=8)
    async def forward(body: bytes, ctx: Context) -> None:
        async with ctx.channel() as channel:
            await channel.default_exchange.publish(aio_pika.Message(body), output)

    bodies = [str(number).encode() for number in range(200)]
    async with worker_running(broker_url, handlers) as worker:
        admin.publish(queue_name, bodies)
        await until(lambda: worker.count(Outcome.ACK) == 200, 20, "all")
    assert sorted(message.body for message in admin.drain(output)) == sorted(bodies)


async def test_message_that_kills_the_library_s_reader_does_not_disturb_the_consumers(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    """It arrives on a borrowed channel, whose frames the library reads: that connection ends, and only that one."""
    handlers = Handlers()
    outcomes: list[str] = []

    @handlers.consume(queue_name, concurrency=1)
    async def fetch(body: bytes, ctx: Context) -> None:
        async with asyncio.timeout(SOON_S), ctx.channel() as channel:
            queue = await channel.get_queue(output, ensure=False)
            try:
                outcomes.append("empty" if await queue.get(fail=False, no_ack=True) is None else "got one")
            except BaseException as error:
                outcomes.append(type(error).__name__)
                raise

    async with worker_running(broker_url, handlers) as worker:
        for properties in islice(HOSTILE.values(), 3):  # each makes the next wait for a reconnect
            admin.publish_raw(output, b"hostile", properties)
        consuming = worker.service.parts.pool.consume_link.live
        admin.publish(queue_name, [b""] * 8)
        await until(lambda: worker.count(Outcome.ACK) + worker.count(Outcome.REJECT) == 8, 30, "all")
        assert worker.service.parts.pool.consume_link.live is consuming
        assert worker.service.state is WorkerState.READY
        assert worker.count(Outcome.STALE) == 0
    lost = [outcome for outcome in outcomes if outcome not in ("got one", "empty")]
    assert len(lost) == 3, "each of the messages has killed a connection"
    assert outcomes[-1] == "empty", "and after each the next borrow worked"


async def test_borrowed_channel_lives_through_the_drain(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume(queue_name)
    async def slow(body: bytes, ctx: Context) -> None:
        async with ctx.channel() as channel:
            await release.wait()
            await channel.default_exchange.publish(aio_pika.Message(body), output)
        async with ctx.channel() as channel:  # a new one can be borrowed too
            await channel.default_exchange.publish(aio_pika.Message(body), output)

    async with worker_running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"1", b"2"])
        await until(lambda: worker.service.parts.pool.stats().borrowed_channels == 2, SOON_S, "both to borrow")
        worker.service.request_stop()
        await until(lambda: worker.service.state is WorkerState.DRAINING, SOON_S, "the drain")
        release.set()
    assert worker.count(Outcome.ACK) == 2
    assert sorted(message.body for message in admin.drain(output)) == [b"1", b"1", b"2", b"2"]
    assert worker.service.parts.pool.stats().total_channels == 0


async def test_channel_of_a_handler_cut_short_goes_back(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name)
    async def stuck(body: bytes, ctx: Context) -> None:
        async with ctx.channel():
            await asyncio.sleep(3600)

    async with worker_running(broker_url, handlers, ExitCode.DRAIN_TIMEOUT) as worker:
        admin.publish(queue_name, [b""])
        await until(lambda: worker.service.parts.pool.stats().borrowed_channels, SOON_S, "the borrower")
        worker.service.request_cut()
        await until(lambda: not worker.service.parts.pool.stats().borrowed_channels, SOON_S, "the channel to come back")
    await until(lambda: admin.counts(queue_name).messages == 1, SOON_S, "the message to come back")


async def test_worker_is_ready_although_nothing_but_its_consumers_is_connected(
    broker_url: str, queue_name: str
) -> None:
    """Readiness is that of the consume link alone."""
    handlers = Handlers()

    @handlers.consume(queue_name)
    async def take(body: bytes) -> None:
        return None

    async with worker_running(broker_url, handlers) as worker:
        publishing = await worker.service.parts.pool.publish_link.connection()
        await publishing.close()
        assert worker.service.state is WorkerState.READY
        await worker.service.parts.pool.publish_link.connection()
        assert worker.service.state is WorkerState.READY
