"""A queue whose messages kill: its new messages run alone, too, while other queues go on."""

from __future__ import annotations

import asyncio
from typing import Any

from mxworker import Delivery, Handlers, Queue, Requeue
from mxworker.api.settlement import Settlement
from tests.harness.runners import Channel, at_work
from tests.harness.waiting import until
from tests.loop.worker.handling.test_isolation import Gated, delivery, suspect, turns


async def test_new_messages_run_one_by_one_and_nothing_beside_them_but_others_do_not_wait_for_a_turn() -> None:
    gated = Gated("deadly", "other", concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    deadly, other = bench.runners
    deadly.run_alone(True, rests=False)
    for tag in (1, 2):
        deadly.admit(delivery(channel, tag))
    other.admit(delivery(channel, 3))
    await turns()
    assert gated.running == [3]
    bench.give_turn()
    gated.release(3)
    await turns()
    assert gated.running == [1]
    gated.release(1)
    await turns()
    assert gated.running == [], "each turn is for one"
    bench.give_turn()
    await turns()
    assert gated.running == [2]
    gated.release(2)
    await until(lambda: channel.settled == 3, 5)
    assert gated.beside == {1: set(), 2: set(), 3: set()}


async def test_what_waits_for_a_place_runs_alone_too_and_in_company_again_when_it_is_over() -> None:
    gated = Gated("deadly", concurrency=2)
    bench, channel = at_work(gated.handlers), Channel()
    for tag in range(1, 7):
        bench.runner.admit(delivery(channel, tag))
    bench.runner.run_alone(True, rests=False)
    gated.release(1, 2)
    await turns()
    assert gated.running == []
    assert bench.runner.waiting == 4
    bench.give_turn()
    await turns()
    assert gated.running == [3]
    gated.release(3)
    await turns()
    bench.runner.run_alone(False, rests=False)
    await turns()
    assert gated.running == [4, 5]
    gated.release(4, 5, 6)
    await until(lambda: channel.settled == 6, 5)
    assert gated.started == [1, 2, 3, 4, 5, 6]


async def test_suspect_stays_apart_when_it_is_over() -> None:
    gated = Gated("queue", concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.run_alone(True, rests=False)
    bench.runner.admit(suspect(bench, channel, 1))
    bench.runner.admit(delivery(channel, 2))
    bench.runner.run_alone(False, rests=False)
    await turns()
    assert gated.running == [2]
    bench.give_turn()
    gated.release(1, 2)
    await until(lambda: channel.settled == 2, 5)
    assert gated.beside == {1: set(), 2: set()}


async def test_while_it_rests_nothing_of_it_starts_and_suspects_of_others_do() -> None:
    gated = Gated("deadly", "other", concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    deadly, other = bench.runners
    deadly.run_alone(True, rests=True)
    deadly.admit(delivery(channel, 1))
    deadly.admit(suspect(bench, channel, 2, "deadly"))
    bench.give_turn()
    await turns()
    assert gated.running == []
    other.admit(suspect(bench, channel, 3, "other"))
    bench.give_turn()
    gated.release(3)
    await until(lambda: channel.acked == [3], 5)
    bench.give_turn()
    await turns()
    assert gated.running == []
    deadly.run_alone(True, rests=False)
    for tag in (1, 2):
        bench.give_turn()
        await turns()
        assert gated.running == [tag]
        gated.release(tag)
        await turns()
    assert channel.acked == [3, 1, 2]


async def test_rest_that_begins_while_it_asks_takes_that_back() -> None:
    gated = Gated("deadly", "other", concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    deadly, other = bench.runners
    deadly.run_alone(True, rests=False)
    deadly.admit(delivery(channel, 1))
    deadly.run_alone(True, rests=True)
    bench.give_turn()
    other.admit(delivery(channel, 2))
    await turns()
    assert gated.running == [2]
    gated.release(2)


async def test_each_message_of_a_batch_runs_alone() -> None:
    handlers = Handlers()
    batches: list[list[bytes]] = []

    @handlers.consume_batch("queue", size=3, wait=60, concurrency=1)
    async def work(bodies: list[bytes]) -> None:
        batches.append(bodies)

    bench, channel = at_work(handlers), Channel()
    for tag in (1, 2):
        bench.runner.admit(delivery(channel, tag))
    bench.runner.run_alone(True, rests=False)
    bench.runner.admit(delivery(channel, 3))
    for count in (1, 2, 3):
        bench.give_turn()
        await until(lambda count=count: channel.settled == count, 5)
    assert batches == [[b"1"], [b"2"], [b"3"]]


async def test_requeued_message_keeps_its_place_in_front_of_those_behind_it() -> None:
    handlers = Handlers()
    started: list[bytes] = []

    @handlers.consume(Queue("queue", single_active_consumer=True), concurrency=1)
    async def work(body: bytes) -> Settlement | None:
        started.append(body)
        return Requeue() if started == [b"1"] else None

    bench, channel = at_work(handlers), Channel()
    bench.runner.run_alone(True, rests=False)
    for tag in (1, 2, 3):
        bench.runner.admit(delivery(channel, tag))
    for _ in range(4):
        bench.give_turn()
        await turns()
    await until(lambda: len(started) >= 4, 5)
    assert started == [b"1", b"1", b"2", b"3"]


async def test_drain_gives_back_what_waits_to_run_alone() -> None:
    gated = Gated("deadly", concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.run_alone(True, rests=True)
    one: Any = delivery(channel, 1)
    assert isinstance(one, Delivery)
    bench.runner.admit(one)
    bench.runner.hold()
    bench.runner.return_waiting()
    await asyncio.sleep(0)
    assert channel.given_back == [1]
