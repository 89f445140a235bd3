"""A start of many queues, on a broker that takes its time for each: what it waits for, and what it says."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from pamqp import commands

from mxworker import Handlers
from mxworker.amqp.consuming import consumer
from mxworker.api.handlers import compile_handlers
from mxworker.api.queues import Queue
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.errors import (
    BrokerError,
    ChannelLost,
    ConnectionLost,
    CredentialsRefused,
    ExitCode,
    QueueGivenUp,
    RequestFault,
)
from mxworker.worker import assembly, start_deadline
from mxworker.worker import start as worker_start
from mxworker.worker.assembly import assemble
from mxworker.worker.main import failure_at_start
from mxworker.worker.service import Service
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import FakeBroker, Peer, Script, answer_to
from tests.pure.worker.test_readiness import Worker

QUEUES = 60


def slow(declare_s: float, *, answers: int | None = None) -> Script:
    """Return a broker that takes `declare_s` for each declaration; after `answers` of them it answers none."""
    declared = 0

    async def script(peer: Peer) -> None:
        nonlocal declared
        await peer.handshake()
        while True:
            channel, frame = await peer.read()
            if isinstance(frame, commands.Queue.Declare):
                declared += 1
                if answers is not None and declared > answers:
                    continue
                await asyncio.sleep(declare_s)
            answer = answer_to(frame)
            if answer is not None:
                peer.send(answer, channel)
            if isinstance(frame, commands.Connection.Close):
                return

    return script


def service_at(url: str, handlers: Handlers, connect_wait_s: float) -> Service:
    settings = Consumption(app="test", brokers=Brokers.parse([url]), connect_wait_s=connect_wait_s)
    slot = Board(1).slot(1)
    slot.write_state(WorkerState.BOOTING)
    return assemble(settings, compile_handlers(handlers), slot, lambda: True, lambda state: None)


def queues(count: int) -> Handlers:
    handlers = Handlers()

    async def order(payload: dict[str, object]) -> None: ...

    for number in range(count):
        handlers.consume(Queue(f"q{number}", dead_letter=False), retry=None)(order)
    return handlers


def told(service: Service, failure: BrokerError, connect_wait_s: float) -> str:
    settings = Consumption(
        app="test", brokers=Brokers.parse(["amqp://me:secret@rabbit/"]), connect_wait_s=connect_wait_s
    )
    return failure_at_start(settings, failure, service.was_connected)


async def test_declaring_takes_longer_than_the_wait_for_a_connection_and_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_deadline, "TELL_EVERY_S", 0.3)
    caplog.set_level(logging.INFO, "mxworker")
    async with FakeBroker(slow(0.13)) as broker:
        service = service_at(str(broker.url.dsn), queues(QUEUES), connect_wait_s=4.5)
        running = asyncio.create_task(service.run())
        await until(lambda: service.state is WorkerState.READY or running.done(), 50, "all queues")
        assert not running.done(), service.failure
        service.request_cut()
        assert await running is ExitCode.OK
    progress = [record.getMessage() for record in caplog.records if "declared and consumed" in record.getMessage()]
    assert progress
    assert all(line.endswith(f" of {QUEUES} queues declared and consumed") for line in progress)
    done = [int(line.split(": ")[1].split()[0]) for line in progress]
    assert done == sorted(done)


async def test_queue_s_time_for_an_answer_is_not_spent_behind_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "REPLY_DEADLINE_S", 8.0)
    monkeypatch.setattr(assembly, "OPEN_AT_ONCE", 4)
    async with FakeBroker(slow(0.15)) as broker:  # nine seconds for all
        service = service_at(str(broker.url.dsn), queues(QUEUES), connect_wait_s=30)
        running = asyncio.create_task(service.run())
        await until(lambda: service.state is WorkerState.READY or running.done(), 50, "all queues")
        service.request_cut()
        assert await running is ExitCode.OK
    assert "is not consumed" not in caplog.text


async def test_broker_that_stops_answering_is_told_with_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (consumer, worker_start):
        monkeypatch.setattr(module, "REPLY_DEADLINE_S", 4.0)
    async with FakeBroker(slow(0, answers=3)) as broker:
        service = service_at(str(broker.url.dsn), queues(5), connect_wait_s=8)
        assert await asyncio.wait_for(service.run(), 50) is ExitCode.BROKER
        assert isinstance(service.failure, ChannelLost)
        text = told(service, service.failure, 8)
        assert text.startswith("Error: connected to amqp://")
        assert "but 2 of 5 queues are not consumed: queue 'q" in text
        assert "': no answer within 4 s" in text
        assert "no broker" not in text


async def test_connection_that_does_not_last_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(until=commands.Queue.Declare)
        peer.hang_up()

    async with FakeBroker(script) as broker:
        service = service_at(str(broker.url.dsn), queues(2), connect_wait_s=5)
        assert await asyncio.wait_for(service.run(), 50) is ExitCode.BROKER
        assert isinstance(service.failure, ConnectionLost | ChannelLost)
        assert "no broker at" not in told(service, service.failure, 5)


async def test_value_that_cannot_be_sent_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue("q")
    object.__setattr__(queue, "arguments", {"x-shop": object()})  # past all that is checked before
    handlers = Handlers()

    @handlers.consume(queue)
    async def order(payload: dict[str, object]) -> None: ...

    async with FakeBroker(slow(0)) as broker:
        service = service_at(str(broker.url.dsn), handlers, connect_wait_s=30)
        assert await asyncio.wait_for(service.run(), 50) is ExitCode.BROKER
        assert isinstance(service.failure, RequestFault)
        assert told(service, service.failure, 30).startswith("Error: queue 'q': a request cannot be sent: TypeError: ")


def test_refused_credentials_say_where_to_look() -> None:
    service_failure = CredentialsRefused("the broker refused us: 530 NOT_ALLOWED - vhost shop not found")
    settings = Consumption(app="test", brokers=Brokers.parse(["amqp://me:secret@rabbit/shop"]))
    assert failure_at_start(settings, service_failure, False) == (
        "Error: the broker refused us: 530 NOT_ALLOWED - vhost shop not found\n"
        "  Check user, password and virtual host in amqp://me:***@rabbit:5672/shop."
    )


async def test_start_that_has_succeeded_does_not_fail_by_a_queue_that_is_lost_right_then() -> None:
    worker = Worker()
    for each in worker.consumers:
        each.last_error = None
    link = SimpleNamespace(live=object(), was_up=True, last_error=None)
    pool = SimpleNamespace(consume_link=link, expect_until=lambda at: None)
    settings = Consumption(app="test", brokers=Brokers.parse(["amqp://here"]))
    shutdown = SimpleNamespace(requested=asyncio.Event())
    given: tuple[Any, ...] = (settings, 1, pool, worker.consumers, worker.readiness, shutdown, lambda: True)
    start = asyncio.create_task(worker_start.Start(*given).run())
    await asyncio.sleep(0)
    worker.consume(True, True)
    worker.consume(True, False)  # before the start has its turn
    worker.consumers[1].last_error = QueueGivenUp("it made the broker end the connection again")
    assert await asyncio.wait_for(start, 60) is None
