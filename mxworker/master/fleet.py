"""The fleet: it decides which worker is started, asked, told to stop or killed, and when.

Pure: it forks nothing, signals nothing and reads no clock. `loop` tells it what was observed, asks `plan(now_ns)` for
what to do, does it, and sleeps until `next_wakeup(now_ns)`. Knows nothing about the board or the operating system.
All instants are monotonic nanoseconds.

Invariants: a slot has at most one live process (`pid` is set from the fork to the reaping); no order goes to any
other pid; after `stop` nothing is spawned, and every live process was sent KILL or has it among its steps.

How a service ends on its own. Until some worker was ready, a slot whose worker exits with 2, 3 or 4 is given up at once
(a human must change something), any other failure is tried three times; when all slots are given up the service ends
with the code they agree on, or with 5. Once any worker was ever ready the service never ends for a fault: failed
slots are tried again for ever, with backoff. In burst mode a worker that exits with 0 retires its slot.
"""

from __future__ import annotations

import logging
import random
import signal
from dataclasses import dataclass, field
from enum import Enum

from mxworker.backoff import RESPAWN
from mxworker.config import Supervision
from mxworker.errors import ExitCode
from mxworker.lifecycle import Reason, SlotEvent, SlotState, next_slot_state

_LOG = logging.getLogger("mxworker.master")

NS_PER_S = 1_000_000_000

BOOT_ATTEMPTS = 3
SETTLED_AFTER_NS = 60 * NS_PER_S  # a worker that ran this long has proven itself: its next failure is a first one
DRAIN_SLACK_NS = NS_PER_S  # a worker drains by its own deadline; the master's comes later, so that it can exit first
ABORT_STEP_NS = NS_PER_S // 2
BOOT_LOOK_NS = NS_PER_S // 40  # how often a booting worker's first beat is looked for; a boot takes 100 ms and more
WITHHOLD_NS = 2 * NS_PER_S  # two beats: after an oversleep every healthy worker has time to beat again

_NEEDS_A_HUMAN = frozenset({ExitCode.USAGE, ExitCode.APP_LOAD, ExitCode.BROKER})
_VACANT = frozenset({SlotState.EMPTY, SlotState.BACKOFF})
_JUDGED_BY_BEATS = frozenset({SlotState.STARTING, SlotState.RUNNING, SlotState.STOPPING})
_CONDEMNED = frozenset({SlotState.ABORTING, SlotState.KILLING})


class Order(Enum):
    """What a worker can be told, with the signal that says it."""

    TERMINATE = signal.SIGTERM
    """Drain by your deadline, then exit 0, or 6 when it passed."""
    CUT_SHORT = signal.SIGUSR2
    """Cancel running handlers now and leave their deliveries unacked."""
    DUMP = signal.SIGUSR1
    """Say what you are doing."""
    ABORT = signal.SIGABRT
    """Print every thread's stack and die."""
    KILL = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork the worker of a slot; it must beat before `boot_deadline_ns`. Answer with `spawned` or `spawn_failed`."""

    slot: int
    generation: int
    boot_deadline_ns: int


@dataclass(frozen=True, slots=True)
class Send:
    """Give an order to a worker."""

    slot: int
    pid: int
    order: Order


Action = Spawn | Send


@dataclass(frozen=True, slots=True)
class Step:
    """An order that is due at an instant."""

    due_ns: int
    order: Order
    reason: Reason


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended, for whoever reports it. `status` is an exit code or minus a signal number."""

    slot: int
    pid: int
    status: int
    reason: Reason
    as_asked: bool
    uptime_s: float
    retry_in_s: float | None


@dataclass(slots=True)
class Slot:
    """A place for one worker process. Only the fleet changes it."""

    number: int
    state: SlotState = SlotState.EMPTY
    reason: Reason = Reason.START
    pid: int | None = None
    generation: int = 0
    spawned_ns: int = 0
    running_since_ns: int | None = None
    deadline_ns: int = 0
    respawn_ns: int = 0
    failures: int = 0
    verdict: ExitCode | None = None
    """How the slot was given up: OK when a burst worker finished. None while it is wanted."""
    steps: list[Step] = field(default_factory=list)
    """The orders still to be given to the present process, by due instant; at most three."""

    def move(self, event: SlotEvent, reason: Reason) -> None:
        """Go where the table says. The one setter of `state`."""
        former, self.state, self.reason = self.state, next_slot_state(self.state, event), reason
        if former is not self.state:
            _LOG.info("slot %d %s -> %s (%s)", self.number, former.name, self.state.name, reason.value)


class Fleet:
    """All slots of one master."""

    def __init__(self, supervision: Supervision, rng: random.Random) -> None:
        """Plan for `supervision.workers` slots, all EMPTY and due at once; `rng` is the source of the jitter."""
        self.slots = tuple(Slot(number) for number in range(1, supervision.workers + 1))
        self._drain_ns = round(supervision.drain_timeout_s * NS_PER_S)
        self._boot_ns = round(supervision.boot_timeout_s * NS_PER_S)
        self._burst = supervision.burst
        self._rng = rng
        self._ever_ready = False
        self._judge_from_ns = 0
        self._stop_deadline_ns: int | None = None
        self._forced = False
        self._worst_stop = ExitCode.OK

    def __repr__(self) -> str:
        slots = " ".join(f"{slot.number}:{slot.state.name}({slot.pid or '-'})" for slot in self.slots)
        return f"<Fleet {slots}>"

    @property
    def exit_code(self) -> ExitCode | None:
        """With what the service ends now; None while there is something left to do."""
        if any(slot.pid is not None for slot in self.slots):
            return None
        if self._stop_deadline_ns is not None:
            return ExitCode.FORCED if self._forced else self._worst_stop
        verdicts = {slot.verdict for slot in self.slots}
        if None in verdicts:
            return None
        return verdicts.pop() if len(verdicts) == 1 else ExitCode.NEVER_READY

    # ---- what was observed

    def spawned(self, spawn: Spawn, pid: int, now_ns: int) -> None:
        """Take in that a worker was forked as `spawn` asked."""
        slot = self.slots[spawn.slot - 1]
        slot.move(SlotEvent.SPAWNED, slot.reason)
        slot.pid = pid
        slot.generation = spawn.generation
        slot.deadline_ns = spawn.boot_deadline_ns
        slot.spawned_ns = now_ns
        slot.running_since_ns = None

    def spawn_failed(self, spawn: Spawn, now_ns: int) -> None:
        """Take in that the machine could not fork. That is no fault of a worker: no slot is given up for it."""
        self._try_again(self.slots[spawn.slot - 1], SlotEvent.RETRY, Reason.FORK_FAILED, now_ns)

    def observe(self, number: int, deadline_ns: int, now_ns: int) -> None:
        """Take in the heartbeat deadline of slot `number`; another one than before means that its worker has beaten."""
        slot = self.slots[number - 1]
        if slot.pid is None or deadline_ns == slot.deadline_ns:
            return
        slot.deadline_ns = deadline_ns
        if slot.state is SlotState.STARTING or self._can_come_back(slot):
            self._beats(slot, now_ns)

    def became_ready(self, now_ns: int) -> None:
        """Take in that some worker is or was ready: slots that were given up before are wanted again."""
        if self._ever_ready:
            return
        self._ever_ready = True
        for slot in self.slots:
            if slot.verdict not in (None, ExitCode.OK) and self._stop_deadline_ns is None:
                slot.verdict = None
                self._try_again(slot, SlotEvent.RETRY, Reason.RETRY, now_ns)

    def overslept(self, now_ns: int) -> None:
        """Judge nobody's lateness for one round: the master was held up, so perhaps the whole machine was."""
        self._judge_from_ns = now_ns + WITHHOLD_NS

    def exited(self, pid: int, status: int, now_ns: int) -> Exit:
        """Take in that the worker `pid` was reaped with `status`, an exit code or minus a signal number."""
        slot = next(slot for slot in self.slots if slot.pid == pid)
        uptime_s = (now_ns - slot.spawned_ns) / NS_PER_S
        slot.pid = None
        slot.steps.clear()
        if self._stop_deadline_ns is not None:
            outcome = _outcome_of_stop(slot.state, status)
            self._worst_stop = max(self._worst_stop, outcome)
            slot.move(SlotEvent.LEFT, slot.reason if slot.state in _CONDEMNED else Reason.STOP)
            as_asked = outcome is ExitCode.OK
        elif self._burst and status == ExitCode.OK:
            slot.verdict = ExitCode.OK
            slot.move(SlotEvent.LEFT, Reason.BURST)
            self.became_ready(now_ns)
            as_asked = True
        else:
            self._failed(slot, status, now_ns)
            as_asked = False
        retry_in_s = (slot.respawn_ns - now_ns) / NS_PER_S if slot.state is SlotState.BACKOFF else None
        return Exit(slot.number, pid, status, slot.reason, as_asked, uptime_s, retry_in_s)

    # ---- what the operator wants

    def stop(self, now_ns: int) -> None:
        """Drain all workers, in parallel, and start none any more. A second call changes nothing."""
        if self._stop_deadline_ns is not None:
            return
        self._stop_deadline_ns = now_ns + self._drain_ns + DRAIN_SLACK_NS
        for slot in self.slots:
            match slot.state:
                case SlotState.STARTING | SlotState.RUNNING:
                    self._ask_to_stop(slot, now_ns, self._stop_deadline_ns)
                case SlotState.BACKOFF:
                    slot.move(SlotEvent.STOP, Reason.STOP)

    def cut_short(self, now_ns: int) -> None:
        """Stop, and let running handlers be cancelled instead of finished."""
        self.stop(now_ns)
        self._forced = True
        for slot in self.slots:
            if slot.state is SlotState.STOPPING:
                slot.steps.insert(-1, Step(now_ns, Order.CUT_SHORT, Reason.FORCED))  # the last step stays KILL

    def kill(self, now_ns: int) -> None:
        """Kill all workers now."""
        self.stop(now_ns)
        self._forced = True
        for slot in self.slots:
            if slot.pid is not None and slot.state is not SlotState.KILLING:
                slot.steps = [Step(now_ns, Order.KILL, Reason.FORCED)]

    # ---- what follows

    def plan(self, now_ns: int) -> list[Action]:
        """Return what is to be done now. The caller does all of it before it calls again."""
        actions: list[Action] = []
        for slot in self.slots:
            if slot.pid is None:
                actions += self._plan_spawn(slot, now_ns)
            else:
                actions += self._plan_orders(slot, slot.pid, now_ns)
        return actions

    def next_wakeup(self, now_ns: int) -> int | None:
        """Return the next instant at which `plan` or a look at the heartbeats may have a result; None for never."""
        instants: list[int] = []
        for slot in self.slots:
            if self._is_wanted(slot):
                instants.append(slot.respawn_ns)
            instants += [step.due_ns for step in slot.steps[:1]]
            if slot.state in _JUDGED_BY_BEATS:
                instants.append(max(slot.deadline_ns + 1, self._judge_from_ns))
            if slot.state is SlotState.STARTING or self._can_come_back(slot):
                instants.append(now_ns + BOOT_LOOK_NS)
        return min(instants, default=None)

    def _plan_spawn(self, slot: Slot, now_ns: int) -> list[Action]:
        if not self._is_wanted(slot) or now_ns < slot.respawn_ns:
            return []
        return [Spawn(slot.number, slot.generation + 1, now_ns + self._boot_ns)]

    def _is_wanted(self, slot: Slot) -> bool:
        """Whether the slot is to be filled, now or later."""
        return self._stop_deadline_ns is None and slot.state in _VACANT and slot.verdict is None

    def _plan_orders(self, slot: Slot, pid: int, now_ns: int) -> list[Action]:
        if slot.state in _JUDGED_BY_BEATS and now_ns > slot.deadline_ns and now_ns >= self._judge_from_ns:
            self._abort(slot, now_ns)
        actions: list[Action] = []
        while slot.steps and slot.steps[0].due_ns <= now_ns:
            step = slot.steps.pop(0)
            if step.order is Order.KILL:
                slot.move(SlotEvent.KILL, step.reason)
            actions.append(Send(slot.number, pid, step.order))
        return actions

    def _abort(self, slot: Slot, now_ns: int) -> None:
        """Climb from a question to SIGKILL, inside the bound of a stop if there is one."""
        slot.move(SlotEvent.LATE, Reason.HANG)
        kill_ns = now_ns + 2 * ABORT_STEP_NS
        if self._stop_deadline_ns is not None:
            kill_ns = min(kill_ns, max(self._stop_deadline_ns, now_ns))
        slot.steps = [
            Step(now_ns, Order.DUMP, Reason.HANG),
            Step(min(now_ns + ABORT_STEP_NS, kill_ns), Order.ABORT, Reason.HANG),
            Step(kill_ns, Order.KILL, Reason.HANG),
        ]

    def _can_come_back(self, slot: Slot) -> bool:
        """Whether a beat still saves an ABORTING worker: only while SIGABRT was not sent.

        This spares a worker when the whole machine, and the master with it, stood still just past a deadline.
        """
        return slot.state is SlotState.ABORTING and any(step.order is Order.ABORT for step in slot.steps)

    def _beats(self, slot: Slot, now_ns: int) -> None:
        slot.move(SlotEvent.BEAT, Reason.BEAT)
        slot.steps.clear()
        if slot.running_since_ns is None:
            slot.running_since_ns = now_ns
        if self._stop_deadline_ns is not None:
            self._ask_to_stop(slot, now_ns, self._stop_deadline_ns)

    def _ask_to_stop(self, slot: Slot, now_ns: int, kill_ns: int) -> None:
        slot.move(SlotEvent.STOP, Reason.STOP)
        slot.steps = [
            Step(now_ns, Order.TERMINATE, Reason.STOP),
            Step(kill_ns, Order.KILL, Reason.DRAIN_TIMEOUT),
        ]

    def _failed(self, slot: Slot, status: int, now_ns: int) -> None:
        """Decide what follows when a worker ended that nobody had asked to."""
        if slot.state in _CONDEMNED:
            reason = Reason.HANG
        else:
            reason = Reason.CRASH if status != ExitCode.OK else Reason.LEFT_UNASKED
        if self._ever_ready and _has_settled(slot, now_ns):
            slot.failures = 0
        if not self._ever_ready and status in _NEEDS_A_HUMAN:
            self._give_up(slot, ExitCode(status), reason)
        elif not self._ever_ready and slot.failures + 1 >= BOOT_ATTEMPTS:
            self._give_up(slot, ExitCode.NEVER_READY, reason)
        else:
            self._try_again(slot, SlotEvent.FAILED, reason, now_ns)

    def _give_up(self, slot: Slot, verdict: ExitCode, reason: Reason) -> None:
        slot.verdict = verdict
        slot.move(SlotEvent.LEFT, reason)

    def _try_again(self, slot: Slot, event: SlotEvent, reason: Reason, now_ns: int) -> None:
        slot.respawn_ns = now_ns + round(RESPAWN.delay_s(slot.failures, self._rng) * NS_PER_S)
        slot.failures += 1
        slot.move(event, reason)


def _has_settled(slot: Slot, now_ns: int) -> bool:
    return slot.running_since_ns is not None and now_ns - slot.running_since_ns >= SETTLED_AFTER_NS


def _outcome_of_stop(state: SlotState, status: int) -> ExitCode:
    """Return what a worker that ended during a stop means for the exit code of the service."""
    if status in (ExitCode.OK, -signal.SIGTERM):  # SIGTERM kills only who has not begun to work: no handler yet
        return ExitCode.OK
    if status == ExitCode.DRAIN_TIMEOUT or state in _CONDEMNED:
        return ExitCode.DRAIN_TIMEOUT
    return ExitCode.RUNTIME
