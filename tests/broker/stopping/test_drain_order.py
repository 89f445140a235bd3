"""The steps of a drain, each seen at work: a service in this process, its broker behind a proxy that counts frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mxworker import Handlers, Queue, Reject
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import ExitCode
from tests.broker.workers import Holding, running
from tests.harness.faults import TO_BROKER, TO_CLIENT
from tests.harness.frames import BASIC_CANCEL, BASIC_CANCEL_OK, BASIC_CONSUME_OK, BASIC_NACK, Frame
from tests.harness.proxy import proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client


async def test_nothing_is_started_or_given_back_before_cancel_ok(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    started: list[str] = []

    @handlers.consume(queue_name, concurrency=1, prefetch=50)
    async def take(body: str) -> None:
        started.append(body)
        await asyncio.sleep(0.05)

    withheld: list[bytes] = []

    def withhold(frame: Frame) -> bytes:
        withheld.append(frame.raw)
        return b""

    async with proxy_to(broker_url) as proxy:
        proxy.on(TO_CLIENT, BASIC_CANCEL_OK, withhold, times=1)
        nacks = proxy.on(TO_BROKER, BASIC_NACK, lambda frame: frame.raw)
        async with running(proxy.url(broker_url), handlers) as worker:
            admin.publish(queue_name, [str(number).encode() for number in range(200)])
            await until(lambda: started, 10, "the first delivery")
            worker.service.request_stop()
            await until(lambda: withheld, 10, "cancel-ok")
            started_before = len(started)
            await asyncio.sleep(0.5)  # for what must not happen
            assert len(started) == started_before
            assert nacks.hits == 0
            proxy.inject(TO_CLIENT, withheld[0])
    assert nacks.hits >= 40
    # What the barrier's basic.get brought is on its way back when the channel has closed.
    await until(lambda: admin.counts(queue_name).messages == 200 - len(started), 5, "all but the started ones")


async def test_settlements_still_on_their_way_survive_the_drain(
    broker_url: str, queue_name: str, admin: Client, scale: Callable[[int, int], int]
) -> None:
    for _ in range(scale(3, 10)):
        await _drain_with_a_thousand_rejects(broker_url, queue_name, admin)
        assert admin.counts(queue_name).messages == 0


async def _drain_with_a_thousand_rejects(broker_url: str, queue_name: str, admin: Client) -> None:
    held = 1000
    handlers = Handlers()
    release = asyncio.Event()
    started = 0

    @handlers.consume(Queue(queue_name, dead_letter=False), concurrency=held, prefetch=held)
    async def hold(body: bytes) -> None:
        nonlocal started
        started += 1
        await release.wait()
        raise Reject("all at once")

    async with proxy_to(broker_url) as proxy:
        cancelled = proxy.on(TO_CLIENT, BASIC_CANCEL_OK, lambda frame: frame.raw)
        async with running(proxy.url(broker_url), handlers, process_concurrency=held) as worker:
            admin.publish(queue_name, [b""] * held)
            await until(lambda: started == held, 20, "all to run")
            worker.service.request_stop()
            await until(lambda: cancelled.hits, 10, "cancel-ok")
            release.set()


async def test_subscription_still_in_the_making_is_cancelled_too(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    bodies = [str(number) for number in range(300)]
    handlers = Handlers()
    done: list[str] = []

    @handlers.consume(queue_name, concurrency=20, prefetch=50)
    async def take(body: str) -> None:
        await asyncio.sleep(0.2)
        done.append(body)

    async with running(broker_url, handlers):
        pass  # makes the queue
    admin.publish(queue_name, [body.encode() for body in bodies])
    withheld: list[bytes] = []
    async with proxy_to(broker_url) as proxy:
        proxy.on(TO_CLIENT, BASIC_CONSUME_OK, lambda frame: withheld.append(frame.raw) or b"", times=1)
        cancels = proxy.on(TO_BROKER, BASIC_CANCEL, lambda frame: frame.raw)
        async with running(proxy.url(broker_url), handlers, wait_until_ready=False) as worker:
            await until(lambda: done, 10, "deliveries that come before we know that we consume")
            worker.service.request_stop()
            await until(lambda: worker.service.state is WorkerState.DRAINING, 10, "the drain")
            assert cancels.hits == 0
            proxy.inject(TO_CLIENT, withheld[0])
    assert cancels.hits == 1
    left = [message.body.decode() for message in admin.drain(queue_name)]
    assert sorted(done + left) == sorted(bodies)


async def test_messages_wait_for_others_while_handlers_finish(broker_url: str, queue_name: str, admin: Client) -> None:
    holding = Holding(queue_name, concurrency=2, prefetch=30)
    async with running(broker_url, holding.handlers) as worker:
        admin.publish(queue_name, [b""] * 50)
        await until(lambda: len(holding.started) == 2, 10, "two to run")
        worker.service.request_stop()
        await until(lambda: admin.counts(queue_name).messages == 48, 10, "all but the running ones to be free")
        assert worker.service.state is WorkerState.DRAINING
        holding.release.set()
    assert worker.count(Outcome.ACK) == 2
    assert len(holding.started) == 2
    await until(lambda: admin.counts(queue_name).messages == 48, 5, "what the barrier's basic.get brought")


async def test_handler_that_makes_an_error_of_its_cancellation_leaves_its_message(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    started = 0

    @handlers.consume(queue_name)
    async def stubborn(body: bytes) -> None:
        nonlocal started
        started += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise RuntimeError("my connection was closed") from None

    async with running(broker_url, handlers, ExitCode.DRAIN_TIMEOUT, drain_timeout_s=0.3):
        admin.publish(queue_name, [b""] * 3)
        await until(lambda: started == 3, 10, "all to run")
    await until(lambda: admin.counts(queue_name).messages == 3, 10, "all to be back")
    assert admin.counts(f"{queue_name}.dlq").messages == 0


async def test_cut_works_while_the_broker_is_silent(broker_url: str, queue_name: str, admin: Client) -> None:
    holding = Holding(queue_name)
    async with proxy_to(broker_url) as proxy:
        async with running(proxy.url(broker_url), holding.handlers, ExitCode.DRAIN_TIMEOUT) as worker:
            admin.publish(queue_name, [b""])
            await until(lambda: holding.started, 10, "one to run")
            proxy.blackhole()
            asked_at = time.monotonic()
            worker.service.request_stop()
            worker.service.request_cut()
        assert time.monotonic() - asked_at < 15, "far less than the drain timeout of 30 s"
