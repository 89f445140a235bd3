"""Suspects beside handlers that await nothing: since Python 3.12 such a unit ends while it is started."""

from __future__ import annotations

import asyncio
import gc

import pytest

from mxworker import Handlers, Queue
from tests.harness.runners import Channel, at_work
from tests.harness.waiting import until
from tests.loop.worker.handling.test_isolation import delivery, is_suspect, suspect


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_suspect_gets_its_turn_while_a_backlog_of_others_is_handled(concurrency: int) -> None:
    handlers = Handlers()

    @handlers.consume("queue", concurrency=concurrency)
    async def take(body: bytes) -> None:
        pass

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(*(delivery(channel, tag) for tag in range(2, 500)))
    await asyncio.sleep(0)
    bench.runner.admit(suspect(bench, channel, 1))
    while 1 not in channel.acked and bench.runner.waiting > 1:
        await asyncio.sleep(0)
        bench.give_turn()
    assert 1 in channel.acked
    assert len(channel.acked) < 498
    await until(lambda: bench.runner.is_idle)


async def test_suspect_of_the_same_turn_as_a_unit_that_ended_at_once_does_not_stop_an_in_order_queue() -> None:
    handlers = Handlers()

    @handlers.consume(Queue("queue", single_active_consumer=True), concurrency=1)
    async def take(body: bytes) -> None:
        pass

    @handlers.consume("other")
    async def take_other(body: bytes) -> None:
        pass

    bench, channel, lost = at_work(handlers), Channel(), Channel()
    in_order, other = bench.runners
    other.admit(suspect(bench, lost, 9, "other"))
    lost.is_lost = True
    in_order.admit(delivery(channel, 1))
    in_order.admit(suspect(bench, channel, 2))
    bench.give_turn()  # asked for by the suspect that is lost
    in_order.admit(delivery(channel, 3))
    for _ in range(20):
        await asyncio.sleep(0)
        bench.give_turn()
    assert channel.acked == [1, 2, 3]


async def test_second_suspect_waits_for_the_time_of_a_unit_that_ends_at_once() -> None:
    handlers = Handlers()
    release = asyncio.Event()
    had_suspect: list[bool] = []
    lost_errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost_errors.append(context))

    @handlers.consume("queue", concurrency=4)
    async def take(body: bytes) -> None:
        if body == b"1":
            await release.wait()
        if body == b"3":
            had_suspect.append(is_suspect(bench, 1))

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1), suspect(bench, channel, 2))
    bench.give_turn()
    await until(lambda: bench.runner.running == 1)
    bench.runner.admit(delivery(channel, 3))
    release.set()
    await until(lambda: 3 in channel.acked)
    assert had_suspect == [False], "it survived the first one, so it is cleared before others start"

    def turn_ended() -> bool:
        bench.give_turn()
        return bench.runner.is_idle

    await until(turn_ended)
    assert sorted(channel.acked) == [1, 2, 3]
    gc.collect()  # a task tells at its end in memory of an error that no code has read
    assert not lost_errors
    assert not bench.broken
