"""A fault of the wire under each settlement and each copy: nothing stays unsettled, and nothing is lost.

The faults before it comes to that are in tests/loop/worker/handling/test_faults.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable

import pytest

from mxworker import Context, Handlers, Reject, Retry
from mxworker.api.attempts import attempt_of
from mxworker.api.settlement import Settlement
from tests.broker.workers import Worker, running
from tests.harness.faults import TO_BROKER, TO_CLIENT
from tests.harness.frames import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_PUBLISH,
    Frame,
    MethodId,
)
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.retries import FAST
from tests.harness.waiting import until
from tests.rabbit.client import Client

MESSAGES = 90
SOON_S = 60.0
_METHOD_AT = 7  # behind the type, the channel and the size of the frame


class Handled:
    """What a handler makes of numbers: of three, one is done, one fails at its first attempt, one is a dead letter."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def settlement(self, body: str, attempt: int) -> Settlement | None:
        match int(body) % 3:
            case 1:
                return Reject("never")
            case 2 if attempt == 1:
                return Retry()
        self.done[body] += 1
        return None

    def one_by_one(self, queue: str) -> Handlers:
        handlers = Handlers()

        @handlers.consume(queue, retry=FAST, concurrency=8)
        async def take(body: str, ctx: Context) -> Settlement | None:
            return self.settlement(body, ctx.attempt)

        return handlers

    def by_the_batch(self, queue: str) -> Handlers:
        handlers = Handlers()

        @handlers.consume_batch(queue, size=10, wait=0.02, retry=FAST)
        async def take(bodies: list[str], ctx: Context) -> list[Settlement | None]:
            attempts = [attempt_of(delivery, FAST.max_attempts) for delivery in ctx.deliveries]
            return [self.settlement(body, attempt) for body, attempt in zip(bodies, attempts, strict=True)]

        return handlers


def cut_at(method: MethodId, skip: int) -> Callable[[Proxy], None]:
    """Cut the connections in place of one frame to the broker."""

    def arm(proxy: Proxy) -> None:
        def cut(frame: Frame) -> bytes:
            proxy.cut()
            return b""

        proxy.on(TO_BROKER, method, cut, skip=skip, times=1)

    return arm


def cut_behind(method: MethodId, skip: int) -> Callable[[Proxy], None]:
    """Cut the connections when the broker has got one frame, and before what it answers comes through."""

    def arm(proxy: Proxy) -> None:
        def cut(frame: Frame) -> bytes:
            proxy.blackhole(TO_CLIENT)
            asyncio.get_running_loop().call_later(0.1, cut_and_heal)
            return frame.raw

        def cut_and_heal() -> None:
            proxy.cut()
            proxy.heal()

        proxy.on(TO_BROKER, method, cut, skip=skip, times=1)

    return arm


def cut_in_deliveries(proxy: Proxy) -> None:
    def cut(frame: Frame) -> bytes:
        proxy.cut()
        return b""

    proxy.on(TO_CLIENT, BASIC_DELIVER, cut, skip=30, times=1)


def refuse_copies(proxy: Proxy) -> None:
    """Turn some confirms into refusals. The broker has the copies, so these messages are there twice."""

    def refuse(frame: Frame) -> bytes:
        nack = struct.pack(">HH", *BASIC_NACK)
        return frame.raw[:_METHOD_AT] + nack + frame.raw[_METHOD_AT + len(nack) :]

    proxy.on(TO_CLIENT, BASIC_ACK, refuse, times=3)


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "publish: cut before a copy": cut_at(BASIC_PUBLISH, 4),
    "publish: cut before its confirm": cut_behind(BASIC_PUBLISH, 4),
    "publish: refused": refuse_copies,
    "settle: cut before an ack": cut_at(BASIC_ACK, 2),
    "settle: cut behind an ack": cut_behind(BASIC_ACK, 2),
    "deliver: cut between deliveries": cut_in_deliveries,
}


def unsettled(worker: Worker) -> int:
    """Return how many deliveries the worker owes a settlement."""
    return sum(consumer.subscription.unsettled for consumer in worker.service.parts.consumers if consumer.subscription)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
async def test_fault_of_the_wire_leaves_nothing_unsettled_and_loses_nothing(
    fault: str, is_batch: bool, broker_url: str, queue_name: str, admin: Client
) -> None:
    handled = Handled()
    handlers = handled.by_the_batch(queue_name) if is_batch else handled.one_by_one(queue_name)
    to_do = {str(number) for number in range(MESSAGES) if number % 3 != 1}
    to_reject = {str(number) for number in range(MESSAGES) if number % 3 == 1}
    dead: Counter[str] = Counter()
    work = [queue_name, *(f"{queue_name}.retry.{step_ms}" for step_ms in FAST.steps_ms)]

    def is_over() -> bool:
        dead.update(message.body.decode() for message in admin.drain(f"{queue_name}.dlq"))
        has_ended = handled.done.keys() >= to_do and dead.keys() >= to_reject
        return has_ended and not any(admin.counts(queue).messages for queue in work)

    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers) as worker:
        FAULTS[fault](proxy)
        connections = len(proxy.attempts)
        admin.publish(queue_name, [str(number).encode() for number in range(MESSAGES)])
        await until(lambda: is_over() and not unsettled(worker), SOON_S, "the end of each message")
        assert len(proxy.attempts) > connections or fault == "publish: refused", "the fault did not happen"
    assert handled.done.keys() == to_do
    assert dead.keys() == to_reject


async def test_requeue_that_is_cut_off_comes_back_all_the_same(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    done: set[str] = set()

    @handlers.consume(queue_name, retry=FAST, on_error="requeue", concurrency=4)
    async def take(body: str, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("boom")
        done.add(body)

    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers) as worker:
        cut_at(BASIC_PUBLISH, 3)(proxy)
        connections = len(proxy.attempts)
        admin.publish(queue_name, [str(number).encode() for number in range(30)])
        await until(lambda: len(done) == 30 and unsettled(worker) == 0, SOON_S, "all")
        assert len(proxy.attempts) > connections, "the fault did not happen"
    assert admin.counts(queue_name).messages == 0
    assert admin.counts(f"{queue_name}.dlq").messages == 0
