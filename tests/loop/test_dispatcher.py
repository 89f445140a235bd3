"""Who runs, who waits, and for whom there is no room; with deliveries that nobody sent."""

from __future__ import annotations

import asyncio

import pytest

from mxworker import Handlers
from mxworker.board import Word
from mxworker.errors import InvariantError
from tests.harness.stations import Channel, at_work, deliveries
from tests.harness.waiting import until


async def test_what_lost_channels_left_waiting_does_not_pile_up() -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("queue", concurrency=1, prefetch=50)
    async def hold(body: bytes) -> None:
        await release.wait()

    bench = at_work(handlers)
    for _ in range(20):
        channel = Channel()
        for delivery in deliveries(channel, 50):
            bench.station.admit(delivery)
        assert bench.station.waiting <= 50
        channel.is_lost = True
    last = Channel()
    for delivery in deliveries(last, 50):
        bench.station.admit(delivery)
    release.set()
    await bench.station.finished()
    await until(lambda: len(last.acked) == 50, 5)
    assert bench.count(Word.STALE) == 20 * 50
    assert not bench.broken


async def test_bug_of_ours_is_told_and_does_not_hide_in_a_task() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        return None

    bench = at_work(handlers)
    (delivery,) = deliveries(Channel(InvariantError("settled twice")), 1)
    bench.station.admit(delivery)
    ((_, task),) = bench.station.tasks()
    with pytest.raises(InvariantError, match="settled twice"):
        await task
    assert [str(error) for error in bench.broken] == ["settled twice"]


async def test_process_has_a_bound_over_all_its_handlers_and_each_gets_its_turn() -> None:
    handlers = Handlers()
    release = asyncio.Semaphore(0)
    running: list[str] = []
    done: list[str] = []
    most = 0

    async def hold(name: str) -> None:
        nonlocal most
        running.append(name)
        most = max(most, len(running))
        await release.acquire()
        running.remove(name)
        done.append(name)

    @handlers.consume("a", concurrency=8)
    async def a(body: bytes) -> None:
        await hold("a")

    @handlers.consume("b", concurrency=8)
    async def b(body: bytes) -> None:
        await hold("b")

    bench = at_work(handlers, process_concurrency=3)
    for station in bench.stations:
        for delivery in deliveries(Channel(), 6):
            station.admit(delivery)
    await asyncio.sleep(0)
    assert running == ["a", "a", "a"]
    for _ in range(12):
        release.release()
        await asyncio.sleep(0.001)
    for station in bench.stations:
        await station.finished()
    assert most == 3
    assert sorted(done) == 6 * ["a"] + 6 * ["b"]
    assert "b" in done[:6], "the second handler waited until the first had nothing left"
