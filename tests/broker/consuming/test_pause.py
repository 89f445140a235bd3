"""Pausing on a real broker: what waits goes to others, what runs is settled on the same channel, and all goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from mxworker import Handlers, Queue
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import ExitCode
from tests.broker.workers import Holding, Worker, running
from tests.harness.waiting import until
from tests.rabbit.client import Client


def consumes(worker: Worker) -> bool:
    return worker.service.parts.consumers[0].consumer_tag is not None


async def pause(worker: Worker) -> Consumer:
    """Pause the worker's only consumer, wait until it does not consume, and return it."""
    (consumer,) = worker.service.parts.consumers
    consumer.pause("test")
    await until(lambda: not consumes(worker), 10, "the pause")
    return consumer


def taking(queue: str) -> tuple[Handlers, list[str]]:
    """Return handlers that take the messages of `queue`, and the bodies taken."""
    handlers = Handlers()
    done: list[str] = []

    @handlers.consume(queue)
    async def take(body: str) -> None:
        done.append(body)

    return handlers, done


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_paused_queue_goes_on_where_it_was_on_the_same_channel(
    queue_type: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    holding = Holding(Queue(queue_name, type=queue_type), concurrency=2, prefetch=30)
    started, release = holding.started, holding.release
    async with running(broker_url, holding.handlers) as worker:
        (consumer,) = worker.service.parts.consumers
        subscription = consumer.subscription
        for round_ in range(1, 3):
            release.clear()
            admin.publish(queue_name, [f"{round_} {number}".encode() for number in range(50)])
            await until(lambda: len(started) % 50 == 2, 10, "two to run")
            await pause(worker)
            await until(lambda: admin.counts(queue_name).messages == 48, 10, "all but the running ones to be free")
            assert worker.service.state is WorkerState.READY
            release.set()
            await until(lambda: worker.count(Outcome.ACK) % 50 == 2, 10, "the running ones to be acked")
            await asyncio.sleep(0.2)  # for what must not happen
            assert len(started) % 50 == 2, "nothing is started while paused"
            consumer.resume("test")
            await until(lambda round_=round_: worker.count(Outcome.ACK) == 50 * round_, 10, "all")
        assert consumer.subscription is subscription
    assert len(set(started)) == len(started) == 100
    assert worker.count(Outcome.STALE) == 0


async def test_queue_deleted_and_made_again_is_noticed_by_a_consumer_that_was_paused(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    """Consuming again guards as the first time against a successor that the broker subscribes to in vain."""
    handlers, done = taking(queue_name)
    async with running(broker_url, handlers) as worker:
        consumer = await pause(worker)
        consumer.resume("test")
        async with asyncio.timeout(60):
            while not consumes(worker):  # noqa: ASYNC110 - not a turn later: it is guarded as soon as it consumes
                await asyncio.sleep(0)
        tag = consumer.consumer_tag
        admin.delete(queue_name)
        admin.declare(queue_name, arguments=Queue(queue_name).declared_arguments())
        await until(lambda: consumes(worker) and consumer.consumer_tag != tag, 10, "another consumer")
        admin.publish(queue_name, [b"new"])
        await until(lambda: done == ["new"], 10, "the new queue's message")


async def test_queue_deleted_while_paused_is_made_again_when_it_is_resumed(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, done = taking(queue_name)
    async with running(broker_url, handlers) as worker:
        consumer = await pause(worker)
        admin.delete(queue_name)
        consumer.resume("test")
        await until(lambda: admin.exists(queue_name) and consumes(worker), 10, "the queue to be consumed again")
        admin.publish(queue_name, [b"new"])
        await until(lambda: done == ["new"], 10, "its message")


async def test_the_metrics_tell_whether_a_queue_is_consumed_or_paused(broker_url: str, queue_name: str) -> None:
    handlers, _ = taking(queue_name)
    async with running(broker_url, handlers) as worker:
        board = SimpleNamespace(used=[worker.slot])

        def told() -> tuple[int, int]:
            (consumer,) = fold(board).consumers
            return consumer.consuming, consumer.paused

        await until(lambda: told() == (1, 0), 10, "a queue that is consumed")
        paused = await pause(worker)
        await until(lambda: told() == (0, 1), 10, "a queue that is paused")
        paused.resume("test")
        await until(lambda: told() == (1, 0), 10, "a queue that is consumed again")


async def test_drain_while_paused_finishes_what_runs(broker_url: str, queue_name: str, admin: Client) -> None:
    holding = Holding(queue_name, concurrency=2, prefetch=30)
    async with running(broker_url, holding.handlers) as worker:
        admin.publish(queue_name, [b""] * 50)
        await until(lambda: len(holding.started) == 2, 10, "two to run")
        await pause(worker)
        worker.service.request_stop()
        await until(lambda: worker.service.state is WorkerState.DRAINING, 10, "the drain")
        holding.release.set()
    assert worker.count(Outcome.ACK) == 2
    await until(lambda: admin.counts(queue_name).messages == 48, 5, "what the barrier took, too")


async def test_burst_does_not_end_while_its_queue_is_paused(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers, done = taking(queue_name)
    async with running(broker_url, handlers, ExitCode.OK, burst=True) as worker:
        await pause(worker)
        await asyncio.sleep(1)  # for what must not happen: two looks take half of it
        assert worker.service.state is WorkerState.READY
        admin.publish(queue_name, [b"1"])
        worker.service.parts.consumers[0].resume("test")
        await until(lambda: worker.service.state is WorkerState.STOPPED, 10, "the end of the burst")
    assert done == ["1"]
