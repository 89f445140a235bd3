"""The fleet in any order of things: exits, beats, lateness, oversleeps, fork failures, reloads, scales, stops."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxworker.board.lifecycle import Wish
from mxworker.master.fleet import Fleet
from mxworker.master.plan import Cause, RollState, Send, Spawn
from mxworker.master.replacing import START_ATTEMPTS
from mxworker.master.slot import NS_PER_S, Order
from mxworker.master.slot_states import SlotState
from tests.pure.master.world import DRAIN_NS, Process, World

WORKERS = 3
MOST = 5
ALL_SLOTS = range(1, 2 * MOST + 2)
VIOLENT = {Order.DUMP, Order.ABORT, Order.KILL, Order.CUT_SHORT}


class Anything(RuleBasedStateMachine):
    """`World` plays the operating system; the invariants are checked after each rule."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(WORKERS)
        self.stopped_at_ns: int | None = None
        self.spawns_at_stop = 0
        self.was_ready = False
        self.reloads = 0
        self.explained = 0
        """How many deaths messages may have caused."""

    slots = st.sampled_from(ALL_SLOTS)

    @property
    def fleet(self) -> Fleet:
        return self.world.fleet

    def pick(self, slot: int) -> Process | None:
        return next((process for process in self.world.alive.values() if process.slot == slot), None)

    def is_wanted(self, pid: int) -> bool:
        return any(slot.pid == pid and slot.is_wanted for slot in self.fleet.slots)

    def serving(self) -> int:
        """How many workers consume and are not told to stop."""
        return sum(process.is_ready and not process.orders for process in self.world.alive.values())

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 0.6, 1.2, 5.0, 31.0, 61.0, 120.0]), beating=st.sets(slots))
    def time_goes_on(self, seconds: float, beating: set[int]) -> None:
        before = {process.pid: len(process.orders) for process in self.world.alive.values()}
        healthy = {p.pid for p in self.world.alive.values() if p.slot in beating and p.deadline_ns >= self.world.now_ns}
        unasked = {p.pid for p in self.world.alive.values() if not p.orders}
        self.world.run(seconds, *(beating or {99}))
        for pid in healthy & unasked & self.world.alive.keys():
            given = self.world.alive[pid].orders[before[pid] :]
            assert not VIOLENT & set(given) or Order.TERMINATE in given, f"orders {given} to a healthy worker"
            if self.stopped_at_ns is None and self.is_wanted(pid):
                assert not given, f"orders {given} to a healthy worker that is wanted"

    @rule(seconds=st.floats(0.0, 200.0))
    def master_oversleeps(self, seconds: float) -> None:
        self.world.now_ns += round(seconds * NS_PER_S)
        self.fleet.overslept(self.world.now_ns)
        given = [action for action in self.world.act() if isinstance(action, Send)]
        assert not [send for send in given if send.order is Order.DUMP]

    @rule(
        slot=slots,
        status=st.sampled_from([0, 1, 2, 3, 4, 6, 77, -6, -9, -11, -15]),
        cause=st.sampled_from(list(Cause)),
    )
    def worker_exits(self, slot: int, status: int, cause: Cause) -> None:
        if self.pick(slot):
            self.world.exit(slot, status, cause)
            self.explained += cause is not Cause.UNKNOWN

    @rule(slot=slots)
    def worker_breaks_its_slot(self, slot: int) -> None:
        process = self.pick(slot)
        if process:
            self.fleet.broke(slot, "STATE is 255", self.world.now_ns)
            self.world.act()
            assert process.orders[-1] is Order.KILL
            assert process.orders.count(Order.KILL) == 1

    @rule(slot=slots)
    def worker_obeys(self, slot: int) -> None:
        """Drain as asked, or die as told."""
        process = self.pick(slot)
        if process and Order.KILL in process.orders:
            self.world.exit(slot, -9)
        elif process and Order.TERMINATE in process.orders:
            self.world.exit(slot, 0)

    @rule(slot=slots)
    def worker_becomes_ready(self, slot: int) -> None:
        process = self.pick(slot)
        if process:
            before = self.serving()
            self.was_ready = True
            self.world.ready(slot)
            self.world.act()
            if self.stopped_at_ns is None:
                assert self.serving() >= before, "a replacement cost more than it brought"

    @rule(slot=slots, wish=st.sampled_from(list(Wish)))
    def worker_wishes(self, slot: int, wish: Wish) -> None:
        if self.pick(slot):
            self.world.wish(slot, wish)

    @rule()
    def operator_reloads(self) -> None:
        self.reloads += self.stopped_at_ns is None
        self.fleet.reload(self.world.now_ns)
        self.world.act()
        assert self.fleet.generation == 1 + self.reloads

    @rule(workers=st.integers(1, MOST))
    def operator_scales(self, workers: int) -> None:
        self.fleet.scale(workers, self.world.now_ns)
        self.world.act()
        if self.stopped_at_ns is None:
            assert self.fleet.wanted == workers

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
        self.world.act()

    @invariant()
    def a_slot_has_a_process_exactly_in_the_states_that_say_so(self) -> None:
        for slot in self.fleet.slots:
            assert (slot.pid is None) == (slot.state in (SlotState.EMPTY, SlotState.BACKOFF))
            assert len(slot.steps) <= 8
            if slot.pid is None:
                assert not slot.steps
            else:
                assert slot.pid in self.world.alive
                on_its_way = slot.kill_ns is not None or slot.state is SlotState.KILLING
                assert slot.is_wanted or on_its_way, "nobody wants it, and nobody told it"

    @invariant()
    def as_many_slots_as_wanted_and_one_on_trial_are_to_be_filled(self) -> None:
        trials = [slot for slot in self.fleet.slots if slot.relief is not None]
        assert len(trials) <= 1
        if self.stopped_at_ns is None:
            assert sum(slot.is_wanted for slot in self.fleet.slots) == self.fleet.wanted + len(trials)

    @invariant()
    def a_roll_that_is_done_leaves_nothing_old(self) -> None:
        if self.fleet.roll.state is RollState.DONE and self.stopped_at_ns is None:
            for slot in self.fleet.slots:
                assert slot.pid is None or not slot.is_wanted or slot.generation == self.fleet.generation

    @invariant()
    def nothing_is_spawned_after_a_stop(self) -> None:
        if self.stopped_at_ns is not None:
            assert self.world.spawns == self.spawns_at_stop

    @invariant()
    def boots_are_bounded_before_ready(self) -> None:
        if not self.was_ready and not self.reloads and self.fleet.wanted == WORKERS == len(self.fleet.slots):
            assert self.world.spawns <= WORKERS * START_ATTEMPTS + self.explained

    @invariant()
    def service_goes_on_once_anything_was_ready(self) -> None:
        if self.was_ready and self.stopped_at_ns is None:
            assert self.fleet.exit_code is None

    @invariant()
    def every_slot_with_something_to_come_has_a_wakeup(self) -> None:
        waiting_for_reaping = all(slot.state is SlotState.KILLING for slot in self.fleet.slots if slot.pid)
        if self.fleet.exit_code is None and not (self.stopped_at_ns is not None and waiting_for_reaping):
            vacant = [slot for slot in self.fleet.slots if slot.awaits_a_worker]
            if vacant or not waiting_for_reaping:
                assert self.fleet.next_wakeup(self.world.now_ns) is not None

    def teardown(self) -> None:
        """Whatever happened, a stop ends: at its deadline every live worker was told KILL."""
        self.fleet.stop(self.world.now_ns)
        spawns = self.world.spawns
        self.world.run(DRAIN_NS / NS_PER_S + 1.001, *ALL_SLOTS)
        for process in list(self.world.alive.values()):
            assert Order.KILL in process.orders
            self.world.exit(process.slot, -9)
        assert self.world.spawns == spawns
        assert self.fleet.exit_code is not None


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
