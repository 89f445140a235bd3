"""Who runs, who waits, and for whom there is no room; with deliveries that nobody sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from mxworker import CircuitBreaker, Context, Handlers
from mxworker.api.settlement import Settlement
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import InvariantError
from mxworker.worker.handling.work import SingleWork
from tests.harness.runners import Channel, at_work, deliveries
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
            bench.runner.admit(delivery)
        assert bench.runner.waiting <= 50
        channel.is_lost = True
    last = Channel()
    for delivery in deliveries(last, 50):
        bench.runner.admit(delivery)
    release.set()
    await bench.runner.finished()
    await until(lambda: len(last.acked) == 50, 5)
    assert bench.count(Outcome.STALE) == 20 * 50
    assert not bench.broken


async def test_bug_of_ours_is_told_and_does_not_hide_in_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise InvariantError("not even rescued")

    monkeypatch.setattr(SingleWork, "rescue", fail)
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        await asyncio.sleep(0)

    bench = at_work(handlers)
    (delivery,) = deliveries(Channel(InvariantError("settled twice")), 1)
    bench.runner.admit(delivery)
    (one,) = bench.runner.at_work()
    with pytest.raises(InvariantError, match="not even rescued"):
        await one.task
    assert [str(error) for error in bench.broken] == ["not even rescued"]


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
    for runner in bench.runners:
        for delivery in deliveries(Channel(), 6):
            runner.admit(delivery)
    await asyncio.sleep(0)
    assert running == ["a", "a", "a"]
    for _ in range(12):
        release.release()
        await asyncio.sleep(0.001)
    for runner in bench.runners:
        await runner.finished()
    assert most == 3
    assert sorted(done) == 6 * ["a"] + 6 * ["b"]
    assert "b" in done[:6], "the second handler waited until the first had nothing left"


def two_handlers(gate: asyncio.Event) -> tuple[Handlers, list[int], list[int]]:
    """Return handlers of `a` and of `b`, which waits for the gate; and of `a` the tags in order, and how many ran."""
    handlers = Handlers()
    order: list[int] = []
    running: list[int] = [0]

    @handlers.consume("a", concurrency=4)
    async def a(body: bytes, ctx: Context) -> None:
        order.append(ctx.delivery.delivery_tag)
        running.append(running[-1] + 1)
        await asyncio.sleep(0.01)
        running.append(running[-1] - 1)

    @handlers.consume("b", concurrency=4)
    async def b(body: bytes) -> None:
        await gate.wait()

    return handlers, order, running


async def test_all_the_room_that_others_leave_is_used() -> None:
    gate = asyncio.Event()
    handlers, _, running = two_handlers(gate)
    bench = at_work(handlers, process_concurrency=4)
    first, second = bench.runners
    for delivery in deliveries(Channel(), 4):
        second.admit(delivery)
    for delivery in deliveries(Channel(), 20):
        first.admit(delivery)
    gate.set()
    await second.finished()
    await until(lambda: first.is_idle, 5)
    assert max(running) == 4


async def test_what_comes_later_does_not_overtake_what_waits() -> None:
    gate = asyncio.Event()
    handlers, order, _ = two_handlers(gate)
    bench = at_work(handlers, process_concurrency=4)
    first, second = bench.runners
    for delivery in deliveries(Channel(), 4):
        second.admit(delivery)
    tags = deliveries(Channel(), 20)
    for delivery in tags[:10]:
        first.admit(delivery)
    gate.set()
    await until(lambda: order, 5)
    for delivery in tags[10:]:
        first.admit(delivery)
    await until(lambda: first.is_idle, 5)
    assert order == list(range(1, 21))


async def sit_out(gate: asyncio.Event) -> None:
    """Be stuck, whatever is cancelled, until the gate is open."""
    while not gate.is_set():
        with suppress(asyncio.CancelledError):
            await gate.wait()


async def test_trial_of_a_circuit_breaker_is_not_held_up_by_a_stuck_handler() -> None:
    handlers = Handlers()
    gate = asyncio.Event()
    breaker = CircuitBreaker(min_deliveries=3, pause=0.1, trial=1)

    @handlers.consume("queue", concurrency=8, retry=None, timeout=0.05, circuit_breaker=breaker)
    async def mixed(body: bytes, ctx: Context) -> None:
        if ctx.delivery.delivery_tag == 1:
            await sit_out(gate)
        if ctx.delivery.delivery_tag < 8:
            raise ValueError

    bench = at_work(handlers, grace_s=0.02)
    resumed: list[str] = []
    bench.runner.breaker.steer(lambda reason: None, resumed.append, lambda most: None)
    channel = Channel()
    tags = deliveries(channel, 20)
    for delivery in tags[:7]:
        bench.runner.admit(delivery)
    await until(lambda: resumed and bench.runner.stuck, 5)
    for delivery in tags[7:]:
        bench.runner.admit(delivery)
    await until(lambda: len(channel.acked) == 13, 5, "all that came after the trial")
    gate.set()
    await bench.runner.finished()


async def test_what_starts_in_the_place_of_a_stuck_handler_has_its_deadline_too() -> None:
    handlers = Handlers()
    gate = asyncio.Event()
    breaker = CircuitBreaker(min_deliveries=1, pause=0.1, trial=1)

    @handlers.consume("queue", concurrency=8, retry=None, timeout=0.05, circuit_breaker=breaker)
    async def mixed(body: bytes, ctx: Context) -> None:
        if ctx.delivery.delivery_tag == 1:
            raise ValueError
        if ctx.delivery.delivery_tag == 2:
            await sit_out(gate)
        if ctx.delivery.delivery_tag == 3:
            await asyncio.sleep(3600)

    bench = at_work(handlers, grace_s=0.02)
    resumed: list[str] = []
    bench.runner.breaker.steer(lambda reason: None, resumed.append, lambda most: None)
    channel = Channel()
    first, *others = deliveries(channel, 3)
    bench.runner.admit(first)
    await until(lambda: resumed, 5, "the trial")
    for delivery in others:
        bench.runner.admit(delivery)
    try:
        await until(lambda: channel.rejected == [1, 3], 5, "the end of the one that waited")
    finally:
        gate.set()
    await bench.runner.finished()


async def test_trial_that_gets_stuck_has_failed() -> None:
    handlers = Handlers()
    gate = asyncio.Event()
    breaker = CircuitBreaker(min_deliveries=1, pause=0.1, trial=1)

    @handlers.consume("queue", concurrency=8, retry=None, timeout=0.05, circuit_breaker=breaker)
    async def mixed(body: bytes, ctx: Context) -> None:
        if ctx.delivery.delivery_tag == 2:
            await sit_out(gate)
        raise ValueError

    bench = at_work(handlers, grace_s=0.02)
    paused: list[str] = []
    resumed: list[str] = []
    bench.runner.breaker.steer(paused.append, resumed.append, lambda most: None)
    first, second = deliveries(Channel(), 2)
    bench.runner.admit(first)
    await until(lambda: resumed, 5, "the trial")
    bench.runner.admit(second)
    await until(lambda: len(paused) == 2, 5, "the trial to have failed")
    gate.set()
    await bench.runner.finished()


async def test_unit_with_a_bug_of_ours_ends_too() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        return None

    bench = at_work(handlers, process_concurrency=1)
    (delivery,) = deliveries(Channel(InvariantError("settled twice")), 1)
    bench.runner.admit(delivery)
    await asyncio.wait_for(bench.runner.finished(), 5)
    channel = Channel()
    bench.runner.admit(deliveries(channel, 1)[0])
    await until(lambda: channel.acked, 5, "the only place to be free again")


class OwnInvention(Settlement):
    """What the closed set does not know."""


@pytest.mark.parametrize("raises", [True, False])
async def test_settlement_of_ones_own_making_is_a_failure(raises: bool) -> None:
    handlers = Handlers()

    @handlers.consume("queue", on_error="reject")
    async def invent(body: bytes) -> object:
        if raises:
            raise OwnInvention("not done")
        return OwnInvention("not done")

    bench = at_work(handlers)
    channel = Channel()
    bench.runner.admit(deliveries(channel, 1)[0])
    await bench.runner.finished()
    assert (channel.acked, channel.rejected) == ([], [1])


# ---- handlers that await nothing: since Python 3.12 they end inside `admit`


async def test_no_turn_of_the_loop_has_more_first_steps_than_places() -> None:
    handlers = Handlers()
    in_turn = [0]

    @handlers.consume("queue", concurrency=3)
    async def take(body: bytes) -> None:
        in_turn[-1] += 1

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 40):
        bench.runner.admit(delivery)
    while not bench.runner.is_idle:
        in_turn.append(0)
        await asyncio.sleep(0)
    assert len(channel.acked) == 40
    assert max(in_turn) == 3


async def test_ends_of_units_do_not_nest_in_each_other() -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("queue", concurrency=1)
    async def take(body: bytes, ctx: Context) -> None:
        if ctx.delivery.delivery_tag == 1:
            await release.wait()

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 2000):
        bench.runner.admit(delivery)
    assert bench.runner.waiting == 1999
    release.set()
    await until(lambda: bench.runner.is_idle)
    assert not bench.broken
    assert channel.acked == list(range(1, 2001))


async def test_unit_in_its_first_step_is_known_by_its_task() -> None:
    handlers = Handlers()
    found: list[int] = []

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        task = asyncio.current_task()
        at_work_in = bench.runner.at_work_in(task)
        assert at_work_in is not None
        assert bench.runner.is_run_by(task)
        assert task in [one.task for one in bench.runner.at_work()]
        found.append(at_work_in.deliveries[0].delivery_tag)
        if not body:
            await asyncio.sleep(0)
            assert bench.runner.is_run_by(task)

    bench, channel = at_work(handlers), Channel()
    for delivery in (*deliveries(channel, 2), *deliveries(channel, 2, b"at once")):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.is_idle)
    assert found == [1, 2, 1, 2]


async def test_places_of_units_that_ended_at_once_are_free_in_the_next_turn() -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("queue", concurrency=2)
    async def take(body: bytes) -> None:
        if body:
            await release.wait()

    bench, channel = at_work(handlers, process_concurrency=2), Channel()
    for delivery in (*deliveries(channel, 2), *deliveries(channel, 2, b"wait")):
        bench.runner.admit(delivery)
    await until(lambda: len(channel.acked) == 2 and bench.runner.running == 2)
    bench.runner.admit(*deliveries(channel, 1))
    assert bench.runner.waiting == 1
    release.set()
    await until(lambda: bench.runner.is_idle)
    assert len(channel.acked) == 5
