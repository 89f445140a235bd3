"""A body above the cap: its message is kept, in the dead-letter queue or where it was, and the log says which it is."""

from __future__ import annotations

import logging

import pytest
from pamqp import commands

from mxworker import Handlers, Queue
from mxworker.board.lifecycle import WorkerState
from mxworker.errors import BodyTooLarge
from tests.broker.workers import running
from tests.harness.waiting import until
from tests.rabbit.client import Client

CAP = 300_000
SOON_S = 30.0
ID = commands.Basic.Properties(message_id="the large one", delivery_mode=2)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_it_is_a_dead_letter_where_the_queue_keeps_those(
    queue_type: str, broker_url: str, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    seen = []

    @handlers.consume(Queue(queue_name, type=queue_type))  # type: ignore[arg-type]
    async def take(body: bytes) -> None:
        seen.append(len(body))

    async with running(broker_url, handlers, max_body_bytes=CAP):
        admin.publish(queue_name, [b"x" * CAP])
        admin.publish(queue_name, [b"x" * (CAP + 1)], ID)
        admin.publish(queue_name, [b"x" * 10])
        await until(lambda: admin.counts(f"{queue_name}.dlq").messages == 1, SOON_S, "the dead letter")
        await until(lambda: len(seen) == 2, SOON_S, "the others")
    assert sorted(seen) == [10, CAP]
    (line,) = [record.getMessage() for record in caplog.records if "--max-body-size" in record.getMessage()]
    assert "the large one" in line
    assert queue_name in line
    assert str(CAP + 1) in line


@pytest.mark.parametrize("kind", ["passive", "off", "no dead letters", "other target", "single active consumer"])
async def test_it_stays_where_it_is_when_a_reject_could_lose_it(
    kind: str, broker_url: str, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    queue = {
        "passive": lambda: Queue(queue_name, declare="passive"),
        "off": lambda: Queue(queue_name, declare="off"),
        "no dead letters": lambda: Queue(queue_name, dead_letter=False),
        "other target": lambda: Queue(queue_name, arguments={"x-dead-letter-exchange": "nowhere"}),
        "single active consumer": lambda: Queue(queue_name, dead_letter=False, single_active_consumer=True),
    }[kind]()
    if kind in ("passive", "off"):
        admin.declare_quorum(queue_name)
        admin.declare_quorum(f"{queue_name}.dlq")
    handlers = Handlers()
    seen: list[bytes] = []

    @handlers.consume(queue, retry=None, concurrency=2, prefetch=3)
    async def take(body: bytes) -> None:
        seen.append(body)

    async with running(broker_url, handlers, max_body_bytes=CAP) as worker:
        (consumer,) = worker.service.parts.consumers
        admin.publish(queue_name, [b"before"])
        admin.publish(queue_name, [b"x" * (CAP + 1)], ID)
        admin.publish(queue_name, [b"after"])
        await until(lambda: seen == [b"before"] and consumer.consumer_tag is None, SOON_S, "the stop")
        assert worker.service.state is WorkerState.DEGRADED or worker.service.state is WorkerState.CONNECTING
        assert isinstance(consumer.last_error, BodyTooLarge)
        await until(lambda: admin.counts(queue_name).messages == 2, SOON_S, "both to be back")
        (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        for fact in ("the large one", queue_name, str(CAP + 1), str(CAP), "--max-body-size", "ctl pause"):
            assert fact in line
        assert consumer.consumer_tag is None
        if queue.single_active_consumer:  # no basic.get there
            assert admin.purge(queue_name) == 2
            admin.publish(queue_name, [b"after"])
        else:
            large = admin.get(queue_name)  # by hand, as the text says
            assert large is not None
            assert len(large.body) == CAP + 1
        orders = worker.service.parts.directives._directives
        for order in (orders.pause, orders.resume):  # by mxworker ctl
            order(queue_name)
            worker.service.look_at_board()
        await until(lambda: seen == [b"before", b"after"], SOON_S, "the rest")
        await until(lambda: worker.service.state is WorkerState.READY, SOON_S, "the worker to be ready")
    if kind != "no dead letters" and admin.exists(f"{queue_name}.dlq"):
        assert admin.counts(f"{queue_name}.dlq").messages == 0


async def test_body_of_a_hundred_mebibytes_is_handled_within_the_default_budget(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    seen: list[int] = []

    @handlers.consume(queue_name)
    async def take(body: bytes) -> None:
        seen.append(len(body))

    async with running(broker_url, handlers) as worker:
        connection = worker.service.parts.pool.consume_link.live
        assert connection is not None
        is_taken = connection.server.startswith("RabbitMQ 3.")  # 4 takes 16 MiB by default
        if is_taken:
            admin.publish(queue_name, [bytes(100 * 1024 * 1024)])
            await until(lambda: seen == [100 * 1024 * 1024], SOON_S, "the body")
    if not is_taken:
        pytest.skip("this broker takes no such body")
