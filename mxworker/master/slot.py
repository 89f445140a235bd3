"""A slot: a place for one worker process, with the process's state and the signals that it will be sent.

The slot is pure, and only the fleet changes it. All instants are monotonic nanoseconds.

Invariants: `pid` is set from the fork to the reaping; `steps` is sorted by due instant; the last step of a process that
was asked to stop is KILL.
"""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass, field
from enum import Enum

from mxworker.board.lifecycle import Wish
from mxworker.errors import ExitCode
from mxworker.master.slot_states import Reason, SlotEvent, SlotState, next_slot_state
from mxworker.system.log_events import LogEvent, log_event

_LOG = logging.getLogger("mxworker.master")

NS_PER_S = 1_000_000_000
ABORT_STEP_NS = NS_PER_S // 2

_VACANT = frozenset({SlotState.EMPTY, SlotState.BACKOFF})
_JUDGED_BY_BEATS = frozenset({SlotState.STARTING, SlotState.RUNNING, SlotState.STOPPING})
_CONDEMNED = frozenset({SlotState.ABORTING, SlotState.KILLING})
_KILLED_BECAUSE = {
    Reason.DRAIN_TIMEOUT: "has not left by the deadline of its drain",
    Reason.HANG: "does not end by itself",
}


class Order(Enum):
    """What the master can tell a worker; the value is the signal that says it."""

    TERMINATE = signal.SIGTERM
    """Drain by your deadline, then exit 0, or 6 when it passed."""
    CUT_SHORT = signal.SIGRTMAX
    """Cancel running handlers now and leave their deliveries unacked.

    The signal must be one that nobody sends to a whole process group: none of the master's, and not SIGWINCH, which
    every resizing of a terminal sends (tty_ioctl(4)).
    """
    LOOK = signal.SIGURG
    """Read the directives on the board. A worker that boots ignores the signal, and reads them when it has booted."""
    DUMP = signal.SIGUSR1
    """Log what you are doing."""
    ABORT = signal.SIGABRT
    """Print every thread's stack and die."""
    KILL = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Step:
    """An order that is due at an instant."""

    due_ns: int
    order: Order
    reason: Reason


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a replacement is for: the number of the slot whose worker it replaces, and why."""

    of: int
    reason: Reason


@dataclass(slots=True)
class Slot:
    """A place for one worker process."""

    number: int
    state: SlotState = SlotState.EMPTY
    reason: Reason = Reason.START
    is_wanted: bool = False
    """Whether a worker shall run here. A process in a slot that is no longer wanted is leaving."""
    pid: int | None = None
    generation: int = 0
    """The generation of the process's code: the number of reloads requested before its fork, plus one."""
    relief: Replacement | None = None
    """Set while the process is on trial, which is until it is ready: whose replacement it is."""
    is_ready: bool = False
    """Whether the process consumes from all its queues."""
    ready_since_ns: int = 0
    wish: Wish = Wish.NONE
    """Why the process wants to be replaced."""
    is_burst_over: bool = False
    """Whether the process leaves because it found nothing more to do in a burst."""
    spawns: int = 0
    spawned_ns: int = 0
    running_since_ns: int | None = None
    deadline_ns: int = 0
    respawn_ns: int = 0
    failures: int = 0
    """How many workers have failed here one after another: so long is the backoff."""
    failed_starts: int = 0
    """How many workers failed here before any in the service was ready, with no message in flight."""
    verdict: ExitCode | None = None
    """How the slot was given up: OK when a burst worker finished. None while it is wanted."""
    killed_ns: int | None = None
    """When the process was sent KILL."""
    kill_ns: int | None = None
    """When a process that was asked to stop is killed; None when it was not asked."""
    steps: list[Step] = field(default_factory=list)
    """The orders still to be given to the present process, by due instant; at most a handful."""

    def move(self, event: SlotEvent, reason: Reason) -> None:
        """Change the state as the table says. This is the only setter of `state`."""
        former, self.state, self.reason = self.state, next_slot_state(self.state, event), reason
        if former is not self.state:
            facts = log_event("slot_state", slot=self.number, state=self.state.name.lower(), reason=reason.value)
            _LOG.debug("slot %d %s -> %s (%s)", self.number, former.name, self.state.name, reason.value, extra=facts)

    # ---- how it is

    @property
    def is_vacant(self) -> bool:
        """Whether there is no process."""
        return self.state in _VACANT

    @property
    def is_condemned(self) -> bool:
        """Whether the process is being aborted or killed."""
        return self.state in _CONDEMNED

    @property
    def awaits_a_worker(self) -> bool:
        """Whether a process is to be forked here, now or after a backoff."""
        return self.is_vacant and self.is_wanted and self.verdict is None

    @property
    def is_leaving(self) -> bool:
        """Whether there is a process that is not wanted any more."""
        return self.pid is not None and not self.is_wanted

    @property
    def is_judged_by_beats(self) -> bool:
        """Whether a missing beat counts."""
        return self.state in _JUDGED_BY_BEATS and not self.is_broken

    @property
    def is_broken(self) -> bool:
        """Whether the process is about to be killed for what it has written to its slot of the board."""
        return any(step.reason is Reason.BROKEN for step in self.steps)

    @property
    def can_come_back(self) -> bool:
        """Whether a beat still saves an ABORTING worker: only while SIGABRT was not sent.

        This spares a worker when the whole machine, and the master with it, stood still just past a deadline.
        """
        return any(step.order is Order.ABORT for step in self.steps)

    # ---- what happens to it

    def spawned(self, pid: int, generation: int, boot_deadline_ns: int, now_ns: int) -> None:
        """Take in the process that was just forked."""
        self.move(SlotEvent.SPAWNED, self.reason)
        self.pid = pid
        self.generation = generation
        self.deadline_ns = boot_deadline_ns
        self.spawned_ns = now_ns
        self.spawns += 1
        self.running_since_ns = None

    def beats(self, now_ns: int) -> None:
        """Take in a beat that changes the state: the first beat, or one of a worker that was late."""
        self.move(SlotEvent.BEAT, Reason.BEAT)
        self.steps.clear()
        if self.running_since_ns is None:
            self.running_since_ns = now_ns

    def show_ready(self, is_ready: bool, now_ns: int) -> None:
        """Take in whether the process consumes."""
        if is_ready and not self.is_ready:
            self.ready_since_ns = now_ns
        self.is_ready = is_ready

    def reaped(self) -> None:
        """Take in that the process has ended."""
        self.pid = None
        self.is_ready = False
        self.wish = Wish.NONE
        self.is_burst_over = False
        self.kill_ns = None
        self.killed_ns = None
        self.steps.clear()

    # ---- what it is told

    def ask_to_stop(self, reason: Reason, kill_ns: int, now_ns: int) -> None:
        """Have the process drain, and kill it at `kill_ns`."""
        self.move(SlotEvent.STOP, reason)
        self.kill_ns = kill_ns
        self.steps = [Step(now_ns, Order.TERMINATE, reason), Step(kill_ns, Order.KILL, Reason.DRAIN_TIMEOUT)]

    def hasten(self, kill_ns: int) -> None:
        """Kill a process that is on its way out no later than at `kill_ns`."""
        self.kill_ns = kill_ns if self.kill_ns is None else min(self.kill_ns, kill_ns)
        self.steps = [
            Step(min(step.due_ns, kill_ns), step.order, step.reason) if step.order is Order.KILL else step
            for step in self.steps
        ]

    def cut_short(self, now_ns: int) -> None:
        """Have a process that drains cancel what runs."""
        self.steps.insert(-1, Step(now_ns, Order.CUT_SHORT, Reason.FORCED))  # the last step stays KILL

    def abort(self, now_ns: int) -> None:
        """Send SIGUSR1, SIGABRT and SIGKILL, half a second apart, and within the deadline of a stop if there is one."""
        self._warn(log_event("worker_late"), "has missed its heartbeat; it is asked where it is, then it is ended")
        self.move(SlotEvent.LATE, Reason.HANG)
        kill_ns = now_ns + 2 * ABORT_STEP_NS
        if self.kill_ns is not None:
            kill_ns = min(kill_ns, max(self.kill_ns, now_ns))
        self.steps = [
            Step(now_ns, Order.DUMP, Reason.HANG),
            Step(min(now_ns + ABORT_STEP_NS, kill_ns), Order.ABORT, Reason.HANG),
            Step(kill_ns, Order.KILL, Reason.HANG),
        ]

    def break_off(self, fault: str, now_ns: int) -> None:
        """Kill the process, for what it has written to its slot of the board makes no sense."""
        self._warn(
            log_event("board_damaged", fault=fault),
            f"has written to its slot of the board what makes no sense: {fault}; it is killed",
        )
        self.is_ready = False
        self.steps = [Step(now_ns, Order.KILL, Reason.BROKEN)]

    def kill(self, now_ns: int) -> None:
        """Kill the process now."""
        self.steps = [Step(now_ns, Order.KILL, Reason.FORCED)]

    def take_due(self, now_ns: int) -> list[Order]:
        """Return the orders that are due, and forget them."""
        orders = []
        while self.steps and self.steps[0].due_ns <= now_ns:
            step = self.steps.pop(0)
            if step.order is Order.KILL:
                if step.reason in _KILLED_BECAUSE:
                    self._warn(
                        log_event("worker_killed", reason=step.reason.value),
                        f"{_KILLED_BECAUSE[step.reason]}; it is killed",
                    )
                self.move(SlotEvent.KILL, step.reason)
                self.killed_ns = now_ns
            orders.append(step.order)
        return orders

    def _warn(self, event: LogEvent, what: str) -> None:
        _LOG.warning(
            "worker %d (process %s) %s",
            self.number,
            self.pid,
            what,
            extra=event | {"worker": self.number, "worker_pid": self.pid},
        )
