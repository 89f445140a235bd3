"""What a queue's arguments do on a real broker."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import commands

from mxworker import Handlers, Queue
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.declaring import Declaring
from mxworker.brokers import BrokerUrl
from mxworker.errors import TopologyRefused
from tests.broker.workers import running
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.node import Node


async def ensure(url: str, queue: Queue) -> None:
    connection = await BrokerConnection.open(BrokerUrl.parse(url), "test", asyncio.get_running_loop().time() + 10)
    try:
        async with Declaring(connection) as declaring:
            await topology.ensure(declaring, queue)
    finally:
        await connection.close()


async def test_declared_with_all_its_arguments_a_queue_is_found_again(broker_url: str, queue_name: str) -> None:
    queue = Queue(
        queue_name, type="classic", single_active_consumer=True, max_priority=5, arguments={"x-expires": 10**6}
    )
    await ensure(broker_url, queue)
    await ensure(broker_url, queue)


async def test_argument_that_the_type_of_queue_does_not_know_is_named(node: Node, queue_name: str) -> None:
    with (
        node.expect_precondition_failed(),
        pytest.raises(TopologyRefused, match="a quorum queue takes no x-queue-mode"),
    ):
        await ensure(node.url, Queue(queue_name, arguments={"x-queue-mode": "lazy"}))


async def test_messages_of_a_higher_priority_come_first(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    done: list[str] = []

    @handlers.consume(Queue(queue_name, type="classic", max_priority=5), concurrency=1, prefetch=1)
    async def take(body: str) -> None:
        done.append(body)

    async with running(broker_url, handlers) as worker:
        worker.service.parts.consumers[0].pause("test")
        await until(lambda: worker.service.parts.consumers[0].consumer_tag is None, 10, "the pause")
        for priority in (1, 5, 3):
            properties = commands.Basic.Properties(priority=priority, delivery_mode=2)
            admin.publish(queue_name, [str(priority).encode()], properties)
        worker.service.parts.consumers[0].resume("test")
        await until(lambda: len(done) == 3, 10, "all")
    assert done == ["5", "3", "1"]


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_consumer_of_a_higher_priority_gets_the_messages(
    queue_type: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    def counting(priority: int, done: list[str]) -> Handlers:
        handlers = Handlers()

        @handlers.consume(Queue(queue_name, type=queue_type, consumer_priority=priority))
        async def take(body: str) -> None:
            done.append(body)

        return handlers

    first: list[str] = []
    second: list[str] = []
    async with running(broker_url, counting(0, second)), running(broker_url, counting(10, first)):
        for number in range(20):
            admin.publish(queue_name, [str(number).encode()])
        await until(lambda: len(first) + len(second) == 20, 10, "all")
    assert second == []


async def test_single_active_consumer_leaves_the_others_standing_by(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    def counting(done: list[str]) -> Handlers:
        handlers = Handlers()

        @handlers.consume(Queue(queue_name, single_active_consumer=True))
        async def take(body: str) -> None:
            done.append(body)

        return handlers

    active: list[str] = []
    standby: list[str] = []
    async with running(broker_url, counting(active)) as worker, running(broker_url, counting(standby)):
        admin.publish(queue_name, [b"1"] * 20)
        await until(lambda: len(active) == 20, 10, "all by the first")
        worker.service.parts.consumers[0].pause("test")
        await until(lambda: worker.service.parts.consumers[0].consumer_tag is None, 10, "the pause")
        admin.publish(queue_name, [b"2"] * 20)
        await until(lambda: len(standby) == 20, 10, "all by the one that stood by")
    assert len(active) == 20
