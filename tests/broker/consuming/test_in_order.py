"""With a single active consumer and one place, messages are handled in the order in which they were published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Queue, Requeue
from mxworker.api.attempts import attempt_of
from mxworker.board.metrics_layout import Outcome
from tests.broker.workers import running
from tests.harness.waiting import until
from tests.rabbit.client import Client

SOON_S = 120.0


class Ordered:
    """A queue with a single active consumer, and how its messages were handled by all workers of this process."""

    def __init__(self, url: str, queue: str, **parameters: Any) -> None:
        self.url = url
        self.queue = Queue(queue, single_active_consumer=True, **parameters)
        self.steps: list[tuple[str, str]] = []

    def handlers(self) -> Handlers:
        handlers = Handlers()

        @handlers.consume(self.queue, concurrency=1, on_error="requeue")
        async def take(body: str, ctx: Context) -> None:
            self.steps.append(("start", body))
            await asyncio.sleep(0.002)
            if int(body) % 10 == 3 and ctx.attempt < 3:
                self.steps.append(("failed", body))
                raise ValueError("about to pass")
            self.steps.append(("end", body))

        return handlers

    @property
    def ended(self) -> list[int]:
        return [int(body) for step, body in self.steps if step == "end"]


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_messages_published_one_by_one_are_handled_one_by_one(
    queue_type: str, broker_url: str, queue_name: str, admin: Client, scale: Callable[[int, int], int]
) -> None:
    ordered, count = Ordered(broker_url, queue_name, type=queue_type), scale(200, 2000)
    async with running(broker_url, ordered.handlers()), running(broker_url, ordered.handlers()):
        for number in range(count):
            admin.publish(queue_name, [str(number).encode()])
        await until(lambda: len(ordered.ended) == count, SOON_S, "all")
    expected = [
        (step, str(number))
        for number in range(count)
        for step in (["start", "failed"] * 2 if number % 10 == 3 else []) + ["start", "end"]
    ]
    assert ordered.steps == expected


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_order_holds_when_one_worker_stops_and_another_takes_over(
    queue_type: str, broker_url: str, queue_name: str, admin: Client, scale: Callable[[int, int], int]
) -> None:
    ordered, rounds = Ordered(broker_url, queue_name, type=queue_type), scale(3, 25)
    async with AsyncExitStack() as stack:
        last = AsyncExitStack()
        await last.enter_async_context(running(broker_url, ordered.handlers()))
        number = 0
        for _ in range(rounds):
            successor = AsyncExitStack()
            await successor.enter_async_context(running(broker_url, ordered.handlers()))
            for _ in range(40):
                admin.publish(queue_name, [str(number).encode()])
                number += 1
            due = len(ordered.ended) + 15
            await until(lambda due=due: len(ordered.ended) >= due, SOON_S, "it to be in the middle")
            await last.aclose()
            last = successor
        stack.push_async_callback(last.aclose)
        await until(lambda: len(ordered.ended) == number, SOON_S, "all")
    assert ordered.ended == sorted(ordered.ended)
    overlaps = [
        at for at in range(1, len(ordered.steps)) if ordered.steps[at][0] == ordered.steps[at - 1][0] == "start"
    ]
    assert not overlaps, ordered.steps[overlaps[0] - 3 : overlaps[0] + 5]


@pytest.mark.parametrize("is_raised", [False, True])
async def test_requeued_messages_of_a_batch_run_again_in_their_order_before_the_next_batch(
    is_raised: bool, broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    ran: list[tuple[str, int]] = []
    ended: list[str] = []
    queue = Queue(queue_name, single_active_consumer=True)

    @handlers.consume_batch(queue, size=5, wait=5, prefetch=20, on_error="requeue")
    async def take(bodies: list[str], ctx: Context) -> list[Ack | Requeue]:
        attempts = [attempt_of(delivery, 4) for delivery in ctx.deliveries]
        ran.extend(zip(bodies, attempts, strict=True))
        if is_raised and attempts[0] < 2:
            raise ValueError("about to pass")
        fails = [int(body) % 5 in (1, 3) and attempt < 3 for body, attempt in zip(bodies, attempts, strict=True)]
        ended.extend(body for body, does_fail in zip(bodies, fails, strict=True) if not does_fail)
        return [Requeue() if does_fail else Ack() for does_fail in fails]

    admin.declare_quorum(queue.dead_letter_name)
    admin.declare(queue_name, arguments=queue.declared_arguments())
    admin.publish(queue_name, [str(number).encode() for number in range(20)])
    async with running(broker_url, handlers) as worker:
        await until(lambda: worker.count(Outcome.ACK) == 20, SOON_S, "all")
    assert sorted(ended, key=int) == [str(number) for number in range(20)]
    firsts = [body for body, attempt in ran if attempt == 1]
    assert firsts == [str(number) for number in range(20)]
    last_of = {body: at for at, (body, _) in enumerate(ran)}
    for number in range(5, 20):
        begin = number // 5 * 5
        assert last_of[str(begin - 1)] < ran.index((str(begin), 1)), "the next batch has overtaken"
    for one, other in pairwise(body for body, attempt in ran if attempt == 3):
        assert int(one) < int(other)
