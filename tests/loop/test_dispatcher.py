"""The dispatcher alone, with deliveries that nobody sent."""

from __future__ import annotations

import asyncio

import pytest

from mxworker import Delivery, Handlers
from mxworker.board import Board, Word
from mxworker.errors import InvariantError
from mxworker.worker.dispatcher import Dispatcher
from tests.harness.waiting import until


class Channel:
    """Takes settlements as a subscription does."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.is_lost = False
        self.acked: list[int] = []
        self._fault = fault

    def ack(self, delivery: Delivery) -> bool:
        if self._fault is not None:
            raise self._fault
        self.acked.append(delivery.delivery_tag)
        return not self.is_lost

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        raise AssertionError

    def give_back(self, delivery: Delivery) -> bool:
        raise AssertionError


def deliveries(channel: Channel, count: int) -> list[Delivery]:
    return [Delivery(b"", b"\0\0", b"\0\0", False, tag, channel) for tag in range(1, count + 1)]


async def test_what_lost_channels_left_waiting_does_not_pile_up() -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("queue", concurrency=1, prefetch=50)
    async def hold(body: bytes) -> None:
        await release.wait()

    board = Board(1)
    (handler,) = handlers.compile()
    broken: list[BaseException] = []
    dispatcher = Dispatcher(0, handler, board.slot(1), asyncio.get_running_loop(), broken.append)
    for _ in range(20):
        channel = Channel()
        for delivery in deliveries(channel, 50):
            dispatcher.admit(delivery)
        assert dispatcher.waiting <= 50
        channel.is_lost = True
    last = Channel()
    for delivery in deliveries(last, 50):
        dispatcher.admit(delivery)
    release.set()
    await dispatcher.finished()
    await until(lambda: len(last.acked) == 50, 5)
    assert board.slot(1).words[Word.STALE] == 20 * 50
    assert not broken


async def test_bug_of_ours_is_told_and_does_not_hide_in_a_task() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        return None

    board = Board(1)
    (handler,) = handlers.compile()
    broken: list[BaseException] = []
    dispatcher = Dispatcher(0, handler, board.slot(1), asyncio.get_running_loop(), broken.append)
    (delivery,) = deliveries(Channel(InvariantError("settled twice")), 1)
    dispatcher.admit(delivery)
    task, _ = dispatcher.running[delivery]
    with pytest.raises(InvariantError, match="settled twice"):
        await task
    assert [str(error) for error in broken] == ["settled twice"]
