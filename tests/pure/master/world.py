"""A made-up operating system with made-up workers, for the fleet: `World` does what it plans, on a clock of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from mxworker.board.lifecycle import Wish
from mxworker.config.process import Supervision
from mxworker.master.fleet import Fleet
from mxworker.master.plan import Cause, Exit, Look, Send, Spawn
from mxworker.master.slot import NS_PER_S, Order
from mxworker.master.slot_states import SlotState

HEARTBEAT_NS = 30 * NS_PER_S
BOOT_NS = 60 * NS_PER_S
DRAIN_NS = 10 * NS_PER_S


@dataclass
class Process:
    """A made-up worker process."""

    slot: int
    pid: int
    deadline_ns: int
    generation: int = 1
    is_on_trial: bool = False
    is_ready: bool = False
    wish: Wish = Wish.NONE
    is_burst_over: bool = False
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
                self.alive[self._next_pid] = Process(
                    action.slot, self._next_pid, action.boot_deadline_ns, action.generation, action.is_on_trial
                )
                self.fleet.spawned(action, self._next_pid, self.now_ns)
            else:
                assert action.pid in self.alive, "an order to a process that is not ours"
                assert self.alive[action.pid].slot == action.slot
                self.alive[action.pid].orders.append(action.order)
        return actions

    def beat(self, *slots: int) -> None:
        for process in self.alive.values():
            if not slots or process.slot in slots:
                process.deadline_ns = self.now_ns + HEARTBEAT_NS
                self._show(process)

    def ready(self, *slots: int) -> None:
        """Have the workers in these slots, or in all, consume."""
        for process in self.alive.values():
            if not slots or process.slot in slots:
                process.is_ready = True
        self.beat(*slots)
        self.fleet.became_ready(self.now_ns)

    def wish(self, slot: int, wish: Wish = Wish.MESSAGES) -> None:
        process = self.process(slot)
        process.wish = wish
        self._show(process)

    def _show(self, process: Process) -> None:
        look = Look(process.deadline_ns, process.is_ready, process.wish, process.is_burst_over)
        self.fleet.observe(process.slot, look, self.now_ns)

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

    def finish(self, slot: int) -> Exit:
        """Have a worker leave because it found nothing more to do in a burst."""
        process = self.process(slot)
        process.is_burst_over = True
        self._show(process)
        return self.exit(slot, 0)

    def exit(self, slot: int, status: int, cause: Cause = Cause.UNKNOWN) -> Exit:
        process = self.process(slot)
        del self.alive[process.pid]
        return self.fleet.exited(process.pid, status, self.now_ns, cause)

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
    world.ready()
    return world
