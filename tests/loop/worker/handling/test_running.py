"""Deadlines, the grace after them, and what does not stop: on a clock turned by hand, then with real handlers."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from mxworker import Handlers, Retry
from mxworker.board.metrics_layout import Outcome
from mxworker.worker.handling.running import Running
from tests.harness.hand_clock import HandClock
from tests.harness.runners import Bench, Channel, at_work, deliveries
from tests.harness.waiting import until

TIMEOUT_S, GRACE_S = 10.0, 5.0
FOR_EVER_S = 3600.0
SOON_S = 60.0


class Task:
    """What the deadlines see of a task: it can be told to leave."""

    def __init__(self) -> None:
        self.cancellations = 0

    def cancel(self) -> None:
        self.cancellations += 1


class Clocked:
    """What runs, on a clock turned by hand, and which units were reported as stuck."""

    def __init__(self, timeout_s: float = TIMEOUT_S, grace_s: float = GRACE_S) -> None:
        self.clock: Any = HandClock()
        self.reported: list[str] = []
        self.running: Running[str] = Running(
            timeout_s, self.clock, lambda unit, task: self.reported.append(unit), grace_s
        )
        self.tasks: dict[str, Any] = {}

    def start(self, *units: str) -> None:
        for unit in units:
            self.tasks[unit] = Task()
            self.running.start(unit, self.tasks[unit])

    @property
    def told_to_leave(self) -> list[str]:
        return [unit for unit, task in self.tasks.items() if task.cancellations]


# ---- on a clock turned by hand


def test_each_unit_is_told_to_leave_when_its_own_time_is_up_and_once() -> None:
    clocked = Clocked()
    clocked.start("a")
    clocked.clock.advance(4)
    clocked.start("b")
    clocked.clock.advance(5.9)
    assert clocked.told_to_leave == []
    clocked.clock.advance(0.2)
    assert clocked.told_to_leave == ["a"]
    assert (clocked.running.is_timed_out("a"), clocked.running.is_timed_out("b")) == (True, False)
    clocked.clock.advance(4)
    assert clocked.told_to_leave == ["a", "b"]
    clocked.clock.advance(100)
    assert [task.cancellations for task in clocked.tasks.values()] == [1, 1]


def test_unit_that_ended_is_not_told_and_the_next_one_is_in_time() -> None:
    clocked = Clocked()
    clocked.start("a")
    clocked.clock.advance(1)
    clocked.start("b")
    clocked.running.end("a")
    clocked.clock.advance(9.9)
    assert clocked.told_to_leave == []
    clocked.clock.advance(0.2)
    assert clocked.told_to_leave == ["b"]


def test_deadlines_work_again_after_a_time_with_nothing_to_do() -> None:
    clocked = Clocked()
    clocked.start("a")
    clocked.running.end("a")
    clocked.clock.advance(100)
    clocked.start("b")
    clocked.clock.advance(10)
    assert clocked.told_to_leave == ["b"]


def test_unit_is_stuck_after_the_grace_and_reported_once() -> None:
    clocked = Clocked()
    clocked.start("a")
    clocked.clock.advance(14.9)
    assert (clocked.running.stuck, clocked.reported) == (set(), [])
    clocked.clock.advance(0.2)
    assert (clocked.running.stuck, clocked.reported) == ({"a"}, ["a"])
    clocked.clock.advance(1000)
    assert clocked.reported == ["a"]
    clocked.running.end("a")
    assert clocked.running.stuck == set()
    assert len(clocked.running) == 0


def test_unit_that_leaves_within_the_grace_is_not_stuck() -> None:
    clocked = Clocked()
    clocked.start("a")
    clocked.clock.advance(14)
    clocked.running.end("a")
    clocked.clock.advance(100)
    assert clocked.reported == []


@pytest.mark.parametrize("grace_s", [0.5, 5.0, 100.0])
def test_grace_of_one_unit_does_not_lengthen_the_time_of_the_next(grace_s: float) -> None:
    clocked = Clocked(timeout_s=1, grace_s=grace_s)
    clocked.start("a")
    clocked.clock.advance(1.2)
    clocked.start("b")
    clocked.clock.advance(0.9)
    assert clocked.told_to_leave == ["a"]
    clocked.clock.advance(0.2)
    assert clocked.told_to_leave == ["a", "b"]
    clocked.clock.advance(grace_s)
    assert clocked.reported == ["a", "b"]


def test_settling_has_no_deadline() -> None:
    clocked = Clocked()
    clocked.start("in time", "late")
    clocked.running.settle("in time")
    clocked.clock.advance(12)
    clocked.running.settle("late")
    clocked.clock.advance(100)
    assert clocked.told_to_leave == ["late"]
    assert clocked.reported == []


async def test_waiting_for_the_end_can_leave_out_what_is_stuck() -> None:
    clocked = Clocked()
    clocked.start("a", "b")
    clocked.clock.advance(9)
    clocked.start("c")
    clocked.clock.advance(6.5)  # a and b are stuck, c has time
    waiting = asyncio.create_task(clocked.running.finished(but_stuck=True))
    waiting_for_all = asyncio.create_task(clocked.running.finished())
    await asyncio.sleep(0)
    assert not waiting.done()
    clocked.running.end("c")
    await waiting
    clocked.running.end("a")
    await asyncio.sleep(0)
    assert not waiting_for_all.done()
    clocked.running.end("b")
    await waiting_for_all


async def test_waiting_for_the_end_sees_what_becomes_stuck_meanwhile() -> None:
    clocked = Clocked()
    clocked.start("a")
    waiting = asyncio.create_task(clocked.running.finished(but_stuck=True))
    await asyncio.sleep(0)
    clocked.clock.advance(TIMEOUT_S + GRACE_S)
    await waiting


# ---- with real handlers


async def finished(bench: Bench) -> None:
    """Wait until nothing runs."""
    await asyncio.wait_for(bench.runner.finished(), SOON_S)


async def test_handler_that_leaves_is_a_timeout_and_its_place_is_free(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    left: list[str] = []

    @handlers.consume("queue", concurrency=1, timeout=0.03, retry=None)
    async def slow(body: str) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        finally:
            left.append(body)

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 2):
        bench.runner.admit(delivery)
    await until(lambda: channel.rejected == [1, 2], SOON_S, "both to be rejected")
    assert len(left) == 2
    assert caplog.text.count("attempt 1 of 1, it is a dead letter now: timed out after 0.03 s") == 2
    assert bench.stuck_reports == 0


async def test_success_after_the_deadline_is_a_success() -> None:
    handlers = Handlers()

    @handlers.consume("queue", timeout=0.03)
    async def late(body: bytes) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # its commit was under way

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await finished(bench)
    assert channel.acked == [1]
    assert bench.count(Outcome.ACK) == 1


async def test_error_after_the_deadline_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()

    @handlers.consume("queue", timeout=0.03, on_error="requeue")
    async def translating(body: bytes) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await finished(bench)
    assert channel.requeued == [1]
    assert "ConnectionError: closed" in caplog.text


class Stubborn:
    """Handlers of which each keeps on, whoever tells it to leave, until it is let go."""

    def __init__(self, **said: Any) -> None:
        self.handlers = Handlers()
        self.started = 0
        self.let_go = asyncio.Event()

        @self.handlers.consume("queue", timeout=0.03, retry=None, **said)
        async def stubborn(body: bytes) -> None:
            self.started += 1
            while not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    continue

        lines, first = inspect.getsourcelines(stubborn)
        self.line = f"{__file__}:{first + next(at for at, line in enumerate(lines) if 'wait()' in line)} stubborn"


async def test_stuck_handler_keeps_its_delivery_and_its_place_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn(concurrency=2)
    bench, channel = at_work(stubborn.handlers, grace_s=0.03), Channel()
    for delivery in deliveries(channel, 4):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.stuck == 2, SOON_S, "both to be stuck")
    assert (stubborn.started, bench.runner.running, bench.runner.waiting) == (2, 2, 2)
    assert channel.settled == 0
    assert bench.stuck_reports == 2
    stubborn.let_go.set()
    await until(lambda: len(channel.acked) == 4, SOON_S, "all four")
    assert (bench.runner.stuck, bench.runner.running) == (0, 0)
    assert not bench.broken


async def test_report_of_a_stuck_handler_names_its_line(caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn(concurrency=4)
    bench, channel = at_work(stubborn.handlers, grace_s=0.03), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await until(lambda: bench.runner.stuck, SOON_S, "it to be stuck")
    assert "handler stubborn is stuck on message (no id, delivery tag 1) of queue queue" in caplog.text
    assert "it did not stop 0.03 s after its 0.03 s were up (1 of 4 places are lost to such handlers)" in caplog.text
    assert stubborn.line in caplog.text
    stubborn.let_go.set()
    await finished(bench)


@pytest.mark.parametrize(
    ("concurrency", "stuck", "is_lost"), [(1, 1, True), (4, 1, False), (4, 2, True), (5, 2, False)]
)
async def test_process_is_lost_when_half_of_the_places_are(concurrency: int, stuck: int, is_lost: bool) -> None:
    stubborn = Stubborn(concurrency=concurrency)
    bench, channel = at_work(stubborn.handlers, grace_s=0.03), Channel()
    for delivery in deliveries(channel, stuck):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.stuck == stuck, SOON_S, "all to be stuck")
    assert bench.runner.is_lost_to_stuck is is_lost
    stubborn.let_go.set()
    await finished(bench)
    assert not bench.runner.is_lost_to_stuck


async def test_settlement_may_take_longer_than_the_handler() -> None:
    handlers = Handlers()

    @handlers.consume("queue", timeout=0.02)
    async def fail(body: bytes) -> None:
        raise Retry

    bench, channel = at_work(handlers, grace_s=0.02), Channel()
    bench.runner.admit(*deliveries(channel, 1))  # without a publisher it goes back after a pause longer than the time
    await finished(bench)
    assert channel.given_back == [1]
    assert bench.stuck_reports == 0


async def test_cut_is_for_what_is_stuck_too_and_leaves_it_unsettled() -> None:
    handlers = Handlers()

    @handlers.consume("queue", timeout=0.02)
    async def deaf_once(body: bytes) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            await asyncio.sleep(FOR_EVER_S)

    bench, channel = at_work(handlers, grace_s=0.02), Channel()
    bench.runner.admit(*deliveries(channel, 1))
    await until(lambda: bench.runner.stuck, SOON_S, "it to be stuck")
    bench.runner.cut_short()
    await finished(bench)
    assert channel.settled == 0
    assert not bench.broken


# ---- at the edges


def test_unit_whose_handler_left_late_is_not_stuck_while_it_is_settled() -> None:
    clocked = Clocked()
    clocked.start("a")
    clocked.clock.advance(TIMEOUT_S + GRACE_S)
    assert clocked.running.stuck == {"a"}
    clocked.running.settle("a")
    assert clocked.running.stuck == set()
    clocked.running.end("a")
    assert len(clocked.running) == 0


async def test_new_task_runs_before_it_can_be_cancelled() -> None:
    loop = asyncio.get_running_loop()
    running: Running[str] = Running(0.0, loop, lambda unit, task: None)
    seen: list[str] = []

    async def work() -> None:
        seen.append("began")
        await asyncio.sleep(FOR_EVER_S)

    task = loop.create_task(work())
    running.start("a", task)
    running._expire()  # as uvloop does: timers first, then what is ready
    await asyncio.wait({task})
    assert seen == ["began"]
    assert task.cancelled()
