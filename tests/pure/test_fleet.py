"""The fleet with made-up pids and times. `World` plays the operating system and the workers."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxworker.config import Supervision
from mxworker.errors import ExitCode
from mxworker.lifecycle import Reason, SlotState
from mxworker.master.fleet import BOOT_ATTEMPTS, NS_PER_S, Exit, Fleet, Order, Send, Spawn

HEARTBEAT_NS = 30 * NS_PER_S
BOOT_NS = 60 * NS_PER_S
DRAIN_NS = 10 * NS_PER_S


@dataclass
class Process:
    """A made-up worker process."""

    slot: int
    pid: int
    deadline_ns: int
    beats: bool = False
    orders: list[Order] = field(default_factory=list)


class World:
    """Does what the fleet plans, on a clock of its own."""

    def __init__(self, workers: int = 2, *, burst: bool = False, seed: int = 1) -> None:
        supervision = Supervision("app", workers, drain_timeout_s=10, boot_timeout_s=60, burst=burst)
        self.fleet = Fleet(supervision, random.Random(seed))
        self.now_ns = 1_000 * NS_PER_S
        self.alive: dict[int, Process] = {}
        self.spawns = 0
        self._next_pid = 100

    def act(self) -> list[Spawn | Send]:
        actions = self.fleet.plan(self.now_ns)
        for action in actions:
            if isinstance(action, Spawn):
                assert action.slot not in {process.slot for process in self.alive.values()}, "two in one slot"
                self._next_pid += 1
                self.spawns += 1
                self.alive[self._next_pid] = Process(action.slot, self._next_pid, action.boot_deadline_ns)
                self.fleet.spawned(action, self._next_pid, self.now_ns)
            else:
                assert action.pid in self.alive, "an order to a process that is not ours"
                assert self.alive[action.pid].slot == action.slot
                self.alive[action.pid].orders.append(action.order)
        return actions

    def beat(self, *slots: int) -> None:
        for process in self.alive.values():
            if not slots or process.slot in slots:
                process.beats = True
                process.deadline_ns = self.now_ns + HEARTBEAT_NS
                self.fleet.observe(process.slot, process.deadline_ns, self.now_ns)

    def run(self, seconds: float, *beating: int) -> None:
        """Let time go on as the loop does: from one wakeup to the next, while the slots `beating` beat each second."""
        end_ns = self.now_ns + round(seconds * NS_PER_S)
        next_beat_ns = self.now_ns
        while True:
            if self.now_ns >= next_beat_ns:
                if beating:
                    self.beat(*beating)
                next_beat_ns = self.now_ns + NS_PER_S
            self.act()
            wakeup_ns = self.fleet.next_wakeup(self.now_ns)
            assert wakeup_ns is None or wakeup_ns > self.now_ns, "the loop would spin"
            if self.now_ns >= end_ns:
                return
            candidates = [end_ns, next_beat_ns] if wakeup_ns is None else [end_ns, next_beat_ns, wakeup_ns]
            self.now_ns = max(min(candidates), self.now_ns)

    def exit(self, slot: int, status: int) -> Exit:
        process = self.process(slot)
        del self.alive[process.pid]
        return self.fleet.exited(process.pid, status, self.now_ns)

    def process(self, slot: int) -> Process:
        return next(process for process in self.alive.values() if process.slot == slot)

    def orders(self, slot: int) -> list[Order]:
        return self.process(slot).orders

    def state(self, slot: int) -> SlotState:
        return self.fleet.slots[slot - 1].state


def running(workers: int = 2, *, burst: bool = False) -> World:
    """A world whose workers all run and were ready."""
    world = World(workers, burst=burst)
    world.act()
    world.beat()
    world.fleet.became_ready(world.now_ns)
    return world


# ---- starting


def test_every_slot_is_spawned_at_once_and_only_once() -> None:
    world = World(3)
    assert [action.slot for action in world.act() if isinstance(action, Spawn)] == [1, 2, 3]
    assert world.act() == []


def test_first_beat_makes_a_slot_running() -> None:
    world = World(1)
    world.act()
    assert world.state(1) is SlotState.STARTING
    world.beat()
    assert world.state(1) is SlotState.RUNNING


def test_state_changes_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = running(1)
    world.beat()
    world.beat()
    world.fleet.stop(world.now_ns)
    assert [record.getMessage() for record in caplog.records] == [
        "slot 1 EMPTY -> STARTING (start)",
        "slot 1 STARTING -> RUNNING (beat)",
        "slot 1 RUNNING -> STOPPING (stop)",
    ]


def test_generation_counts_the_processes_of_a_slot() -> None:
    world = running(1)
    world.exit(1, -9)
    world.run(1)
    assert world.fleet.slots[0].generation == 2


def test_failed_fork_is_tried_again_later_and_gives_no_slot_up() -> None:
    world = World(1)
    for _ in range(20):
        (spawn,) = world.fleet.plan(world.now_ns)
        assert isinstance(spawn, Spawn)
        world.fleet.spawn_failed(spawn, world.now_ns)
        assert world.state(1) is SlotState.BACKOFF
        wakeup_ns = world.fleet.next_wakeup(world.now_ns)
        assert wakeup_ns is not None
        world.now_ns = wakeup_ns
    assert world.fleet.exit_code is None


# ---- failing before anything was ready


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.APP_LOAD, ExitCode.BROKER])
def test_all_slots_refusing_alike_end_the_service_with_their_code(code: ExitCode) -> None:
    world = World(2)
    world.act()
    world.exit(1, code)
    assert world.fleet.exit_code is None
    world.run(1)
    assert world.spawns == 2
    world.exit(2, code)
    assert world.fleet.exit_code is code


def test_slots_refusing_differently_end_the_service_with_never_ready() -> None:
    world = World(2)
    world.act()
    world.exit(1, ExitCode.USAGE)
    world.exit(2, ExitCode.APP_LOAD)
    assert world.fleet.exit_code is ExitCode.NEVER_READY


@pytest.mark.parametrize("status", [1, 0, -signal.SIGSEGV, 77])
def test_crashing_boot_is_tried_a_bounded_number_of_times(status: int) -> None:
    world = World(2)
    for _ in range(BOOT_ATTEMPTS):
        world.run(40)
        world.exit(1, status)
        world.exit(2, status)
    world.run(100)
    assert world.spawns == 2 * BOOT_ATTEMPTS
    assert world.fleet.exit_code is ExitCode.NEVER_READY


def test_hanging_boot_is_aborted_and_counts_as_a_failure() -> None:
    world = World(1)
    for _ in range(BOOT_ATTEMPTS):
        world.run(40)
        pid = world.process(1).pid
        while Order.KILL not in world.process(1).orders:
            world.run(0.1)
            assert world.process(1).pid == pid
        assert world.exit(1, -9).reason is Reason.HANG
    assert world.fleet.exit_code is ExitCode.NEVER_READY


def test_slot_given_up_is_wanted_again_once_another_is_ready() -> None:
    world = World(2)
    world.act()
    world.exit(1, ExitCode.APP_LOAD)
    world.beat()
    world.run(5, 2)
    assert world.state(1) is SlotState.EMPTY
    world.fleet.became_ready(world.now_ns)
    assert world.state(1) is SlotState.BACKOFF
    world.run(1, 2)
    assert world.state(1) is SlotState.STARTING


def test_slow_connect_does_not_reset_the_count_of_boot_failures() -> None:
    world = World(1)
    for _ in range(BOOT_ATTEMPTS):
        world.run(100, 1)
        world.exit(1, 1)
    assert world.fleet.exit_code is ExitCode.NEVER_READY


# ---- failing after something was ready


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 6, -9, -11])
def test_after_ready_a_failing_slot_is_tried_for_ever_with_backoff_and_siblings_stay(status: int) -> None:
    world = running(2)
    sibling = world.process(2).pid
    for _ in range(50):
        ended = world.exit(1, status)
        assert ended.retry_in_s is not None
        assert 0 <= ended.retry_in_s <= 30
        world.run(31, 2)
    assert world.spawns == 52
    assert world.process(2).pid == sibling
    assert world.orders(2) == []
    assert world.fleet.exit_code is None


def test_crash_loop_is_slowed_down() -> None:
    world = running(1)
    start_ns, forks = world.now_ns, world.spawns
    while world.now_ns < start_ns + 600 * NS_PER_S:
        if world.alive:
            world.exit(1, 1)
        world.run(0.5)
    assert world.spawns - forks < 80


def test_first_failure_after_work_waits_half_a_second_at_most() -> None:
    for seed in range(50):
        world = World(1, seed=seed)
        world.act()
        world.fleet.became_ready(world.now_ns)
        for _ in range(5):
            world.exit(1, 1)
            world.run(31)
        world.beat()
        world.run(61, 1)
        retry_in_s = world.exit(1, -9).retry_in_s
        assert retry_in_s is not None
        assert retry_in_s <= 0.5


def test_exit_tells_how_it_was() -> None:
    world = running(1)
    world.run(12, 1)
    pid = world.process(1).pid
    ended = world.exit(1, -9)
    assert (ended.slot, ended.pid, ended.status, ended.reason, ended.as_asked) == (1, pid, -9, Reason.CRASH, False)
    assert ended.uptime_s == pytest.approx(12)


# ---- hanging


def hang(world: World) -> int:
    """Let slot 1 miss its deadline and return the instant of the deadline."""
    deadline_ns = world.process(1).deadline_ns
    world.run((deadline_ns - world.now_ns) / NS_PER_S, 2)
    assert world.orders(1) == []
    world.run(0.01, 2)
    return deadline_ns


def test_late_worker_is_asked_aborted_and_killed_half_a_second_apart() -> None:
    world = running(2)
    hang(world)
    assert (world.orders(1), world.state(1)) == ([Order.DUMP], SlotState.ABORTING)
    world.run(0.45, 2)
    assert world.orders(1) == [Order.DUMP]
    world.run(0.1, 2)
    assert (world.orders(1), world.state(1)) == ([Order.DUMP, Order.ABORT], SlotState.ABORTING)
    world.run(0.5, 2)
    assert (world.orders(1), world.state(1)) == ([Order.DUMP, Order.ABORT, Order.KILL], SlotState.KILLING)
    assert world.orders(2) == []
    assert world.exit(1, -9).reason is Reason.HANG


def test_hung_worker_is_replaced_within_two_seconds_of_its_deadline() -> None:
    for seed in range(50):
        world = World(1, seed=seed)
        world.act()
        world.beat()
        world.fleet.became_ready(world.now_ns)
        deadline_ns = hang(world)
        while Order.KILL not in world.orders(1):
            world.run(0.01)
        world.exit(1, -9)
        while not world.alive:
            world.run(0.01)
        assert world.now_ns - deadline_ns < 2 * NS_PER_S


def test_beat_before_sigabrt_brings_a_late_worker_back() -> None:
    world = running(2)
    hang(world)
    world.beat(1)
    assert world.state(1) is SlotState.RUNNING
    world.run(10, 1, 2)
    assert world.orders(1) == [Order.DUMP]


def test_beat_after_sigabrt_does_not() -> None:
    world = running(2)
    hang(world)
    world.run(0.6, 2)
    world.beat(1)
    assert world.state(1) is SlotState.ABORTING
    world.run(0.5, 2)
    assert world.state(1) is SlotState.KILLING


def test_oversleeping_master_judges_nobody_for_a_round() -> None:
    world = running(2)
    world.now_ns += 100 * NS_PER_S
    world.fleet.overslept(world.now_ns)
    assert world.act() == []
    world.run(0.5)
    world.beat(2)
    world.run(1.4, 2)
    assert world.orders(1) == []
    world.run(0.2, 2)
    assert world.orders(1) == [Order.DUMP]
    assert world.orders(2) == []


def test_without_an_oversleep_the_same_lateness_is_judged() -> None:
    world = running(2)
    world.now_ns += 100 * NS_PER_S
    assert {action.order for action in world.act() if isinstance(action, Send)} == {Order.DUMP}


# ---- stopping


def test_stop_terminates_each_worker_once_and_ends_with_zero() -> None:
    world = running(2)
    for _ in range(5):
        world.fleet.stop(world.now_ns)
        world.run(0.5, 1, 2)
    assert world.orders(1) == world.orders(2) == [Order.TERMINATE]
    world.exit(1, 0)
    assert world.fleet.exit_code is None
    assert world.exit(2, 0).as_asked
    assert world.fleet.exit_code is ExitCode.OK


def test_stop_empties_a_slot_in_backoff_and_nothing_is_spawned_any_more() -> None:
    world = running(2)
    world.exit(1, -9)
    world.fleet.stop(world.now_ns)
    assert world.state(1) is SlotState.EMPTY
    world.exit(2, 0)
    world.run(100)
    assert world.spawns == 2
    assert world.fleet.exit_code is ExitCode.OK


def test_worker_killed_by_sigterm_before_it_had_a_handler_drained_cleanly() -> None:
    world = World(1)
    world.act()
    world.fleet.stop(world.now_ns)
    world.act()
    assert world.exit(1, -signal.SIGTERM).as_asked
    assert world.fleet.exit_code is ExitCode.OK


def test_drain_deadline_is_the_timeout_plus_a_second_and_means_code_6() -> None:
    world = running(1)
    world.fleet.stop(world.now_ns)
    world.run(10.9, 1)
    assert world.orders(1) == [Order.TERMINATE]
    world.run(0.2, 1)
    assert world.orders(1) == [Order.TERMINATE, Order.KILL]
    assert world.exit(1, -9).reason is Reason.DRAIN_TIMEOUT
    assert world.fleet.exit_code is ExitCode.DRAIN_TIMEOUT


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((0, 0), ExitCode.OK),
        ((0, 6), ExitCode.DRAIN_TIMEOUT),
        ((6, 1), ExitCode.DRAIN_TIMEOUT),
        ((1, 0), ExitCode.RUNTIME),
    ],
)
def test_worst_worker_decides_the_code_of_a_drain(statuses: tuple[int, int], code: ExitCode) -> None:
    world = running(2)
    world.fleet.stop(world.now_ns)
    world.act()
    world.exit(1, statuses[0])
    world.exit(2, statuses[1])
    assert world.fleet.exit_code is code


def test_worker_hanging_in_its_drain_is_aborted_and_means_code_6() -> None:
    world = running(1)
    world.run(25)
    world.fleet.stop(world.now_ns)
    world.run(6.5)
    assert world.orders(1) == [Order.TERMINATE, Order.DUMP, Order.ABORT, Order.KILL]
    world.exit(1, -9)
    assert world.fleet.exit_code is ExitCode.DRAIN_TIMEOUT


def test_abort_during_a_drain_stays_inside_its_bound() -> None:
    world = running(1)
    world.run(19.5)  # the heartbeat deadline comes at 30 s, the bound of the drain at 30.5 s
    world.fleet.stop(world.now_ns)
    world.run(11.01)
    assert world.orders(1)[-1] is Order.KILL


def test_second_stop_does_not_move_the_bound_of_the_first() -> None:
    world = running(1)
    world.run(19.5)
    world.fleet.stop(world.now_ns)
    world.run(8)
    world.fleet.stop(world.now_ns)
    world.run(3.01)
    assert world.orders(1)[-1] is Order.KILL


def test_stop_during_an_abort_lets_it_finish() -> None:
    world = running(2)
    hang(world)
    world.fleet.stop(world.now_ns)
    world.run(1.1, 2)
    assert world.orders(1) == [Order.DUMP, Order.ABORT, Order.KILL]
    assert world.orders(2) == [Order.TERMINATE]


def test_late_worker_that_comes_back_during_a_stop_is_told_to_stop() -> None:
    world = running(2)
    hang(world)
    world.fleet.stop(world.now_ns)
    world.beat(1)
    world.run(0.1, 1, 2)
    assert world.state(1) is SlotState.STOPPING
    assert world.orders(1) == [Order.DUMP, Order.TERMINATE]
    world.run(11, 1, 2)
    assert world.orders(1)[-1] is Order.KILL


def test_cut_short_follows_terminate_and_means_forced() -> None:
    world = running(1)
    world.fleet.stop(world.now_ns)
    world.fleet.cut_short(world.now_ns)
    world.act()
    assert world.orders(1) == [Order.TERMINATE, Order.CUT_SHORT]
    world.exit(1, 0)
    assert world.fleet.exit_code is ExitCode.FORCED


def test_kill_kills_everything_at_once_and_means_forced() -> None:
    world = running(2)
    hang(world)
    world.fleet.kill(world.now_ns)
    world.act()
    assert world.orders(1) == [Order.DUMP, Order.KILL]
    assert world.orders(2) == [Order.KILL]
    world.fleet.kill(world.now_ns)
    assert world.act() == []
    world.exit(1, -9)
    world.exit(2, -9)
    assert world.fleet.exit_code is ExitCode.FORCED


def test_ready_during_a_stop_revives_nothing() -> None:
    world = World(2)
    world.act()
    world.exit(1, 3)
    world.fleet.stop(world.now_ns)
    world.fleet.became_ready(world.now_ns)
    assert world.state(1) is SlotState.EMPTY
    world.run(5, 2)
    assert world.spawns == 2


# ---- burst


def test_burst_worker_that_finished_retires_its_slot() -> None:
    world = running(2, burst=True)
    world.exit(1, 0)
    world.run(100, 2)
    assert world.state(1) is SlotState.EMPTY
    assert world.fleet.exit_code is None
    world.exit(2, 0)
    assert world.fleet.exit_code is ExitCode.OK


def test_killed_burst_worker_is_respawned() -> None:
    world = running(1, burst=True)
    world.exit(1, -9)
    world.run(1)
    assert world.spawns == 2
    world.exit(1, 0)
    assert world.fleet.exit_code is ExitCode.OK


def test_finished_burst_worker_proves_that_the_service_works() -> None:
    world = World(2, burst=True)
    world.act()
    world.exit(1, 3)
    world.exit(2, 0)
    assert world.fleet.exit_code is None
    world.run(1)
    world.exit(1, 0)
    assert world.fleet.exit_code is ExitCode.OK


# ---- anything, in any order


class Anything(RuleBasedStateMachine):
    """Random exits, beats, lateness, oversleeps, fork failures and stops, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(3)
        self.stopped_at_ns: int | None = None
        self.spawns_at_stop = 0
        self.was_ready = False
        self.failures_before_ready = 0

    slots = st.integers(1, 3)

    @property
    def fleet(self) -> Fleet:
        return self.world.fleet

    def pick(self, slot: int) -> Process | None:
        return next((process for process in self.world.alive.values() if process.slot == slot), None)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 0.6, 1.2, 5.0, 31.0, 61.0, 120.0]), beating=st.sets(slots))
    def time_goes_on(self, seconds: float, beating: set[int]) -> None:
        before = {process.pid: len(process.orders) for process in self.world.alive.values()}
        healthy = {p.pid for p in self.world.alive.values() if p.slot in beating and p.deadline_ns >= self.world.now_ns}
        self.world.run(seconds, *(beating or {99}))
        for pid in healthy & self.world.alive.keys():
            given = self.world.alive[pid].orders[before[pid] :]
            if self.stopped_at_ns is None and self.state_before_allows(pid):
                assert given == [], f"orders {given} to a healthy worker"

    def state_before_allows(self, pid: int) -> bool:
        """Whether the process was never late before: an abort once begun may go on."""
        return Order.DUMP not in self.world.alive[pid].orders

    @rule(seconds=st.floats(0.0, 200.0))
    def master_oversleeps(self, seconds: float) -> None:
        self.world.now_ns += round(seconds * NS_PER_S)
        self.fleet.overslept(self.world.now_ns)
        given = [action for action in self.world.act() if isinstance(action, Send)]
        assert not [send for send in given if send.order is Order.DUMP]

    @rule(slot=slots, status=st.sampled_from([0, 1, 2, 3, 4, 6, 77, -6, -9, -11, -15]))
    def worker_exits(self, slot: int, status: int) -> None:
        if self.pick(slot):
            self.failures_before_ready += not self.was_ready
            self.world.exit(slot, status)

    @rule(slot=slots)
    def killed_worker_is_reaped(self, slot: int) -> None:
        process = self.pick(slot)
        if process and Order.KILL in process.orders:
            self.world.exit(slot, -9)

    @rule(slot=slots)
    def worker_becomes_ready(self, slot: int) -> None:
        if self.pick(slot):
            self.world.beat(slot)
            self.was_ready = True
            self.fleet.became_ready(self.world.now_ns)

    @rule()
    def fork_fails(self) -> None:
        for action in self.fleet.plan(self.world.now_ns):
            if isinstance(action, Spawn):
                self.fleet.spawn_failed(action, self.world.now_ns)
            else:
                self.world.alive[action.pid].orders.append(action.order)

    @precondition(lambda self: self.world.spawns > 6)
    @rule(how=st.sampled_from(["stop", "cut_short", "kill"]))
    def operator_stops(self, how: str) -> None:
        if self.stopped_at_ns is None:
            self.stopped_at_ns, self.spawns_at_stop = self.world.now_ns, self.world.spawns
        getattr(self.fleet, how)(self.world.now_ns)

    @invariant()
    def a_slot_has_a_process_exactly_in_the_states_that_say_so(self) -> None:
        for slot in self.fleet.slots:
            assert (slot.pid is None) == (slot.state in (SlotState.EMPTY, SlotState.BACKOFF))
            assert len(slot.steps) <= 8
            if slot.pid is None:
                assert not slot.steps
            else:
                assert slot.pid in self.world.alive

    @invariant()
    def nothing_is_spawned_after_a_stop(self) -> None:
        if self.stopped_at_ns is not None:
            assert self.world.spawns == self.spawns_at_stop

    @invariant()
    def boots_are_bounded_before_ready(self) -> None:
        if not self.was_ready:
            assert self.world.spawns <= 3 * BOOT_ATTEMPTS

    @invariant()
    def service_goes_on_once_anything_was_ready(self) -> None:
        if self.was_ready and self.stopped_at_ns is None:
            assert self.fleet.exit_code is None

    @invariant()
    def every_slot_with_something_to_come_has_a_wakeup(self) -> None:
        waiting_for_reaping = all(slot.state is SlotState.KILLING for slot in self.fleet.slots if slot.pid)
        if self.fleet.exit_code is None and not (self.stopped_at_ns is not None and waiting_for_reaping):
            vacant = [slot for slot in self.fleet.slots if slot.pid is None and slot.verdict is None]
            if vacant or not waiting_for_reaping:
                assert self.fleet.next_wakeup(self.world.now_ns) is not None

    def teardown(self) -> None:
        """Whatever happened, a stop ends: at its deadline every live worker was told KILL."""
        self.fleet.stop(self.world.now_ns)
        spawns = self.world.spawns
        self.world.run(DRAIN_NS / NS_PER_S + 1.001, 1, 2, 3)
        for process in list(self.world.alive.values()):
            assert Order.KILL in process.orders
            self.world.exit(process.slot, -9)
        assert self.world.spawns == spawns
        assert self.fleet.exit_code is not None


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
