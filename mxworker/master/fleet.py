"""The fleet: it decides which worker is started, signalled, stopped or killed, and when.

The fleet is pure: it forks nothing, signals nothing and reads no clock. `loop` tells it what was observed, asks
`plan(now_ns)` for what to do, does it, and sleeps until `next_wakeup(now_ns)`. The fleet knows nothing about the board
or the operating system. All instants are monotonic nanoseconds.

Invariants: a slot has at most one live process (`pid` is set from the fork to the reaping); no order goes to any other
pid; after `stop` nothing is spawned, and every live process was sent KILL or has it among its steps.

How workers are replaced while the service runs, `replacing` tells and decides.

How a service ends on its own. Before the first worker is ready, a slot whose worker exits with 2, 3 or 4 is given up at
once, because a human must change something; any other failure is tried three times. When all slots are given up, the
service ends with the exit code that they agree on, or with 5. A worker that dies with messages in flight has not failed
to start: one of them may have killed it. Its slot is tried again for ever, with backoff, since only a later worker can
put such a message into quarantine. Once a worker was ready, the service never ends for a fault: every failed slot is
tried again so. In burst mode a worker that found nothing more to do exits with 0, and its slot is retired; a worker
that was stopped by anybody else is started again.
"""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import Mapping, Sequence

from mxworker.config.bounds import MAX_WORKERS
from mxworker.config.process import Supervision
from mxworker.errors import NEEDS_A_HUMAN, ExitCode
from mxworker.master.plan import Action, Cause, Exit, Look, Roll, RollState, Send, Spawn
from mxworker.master.replacing import START_ATTEMPTS, Replacing
from mxworker.master.slot import NS_PER_S, Slot
from mxworker.master.slot_states import Reason, SlotEvent, SlotState
from mxworker.master.slots import Slots
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.master")

SETTLED_AFTER_NS = 60 * NS_PER_S  # a worker that ran this long has proven itself: its next failure is a first one
WITHHOLD_NS = 2 * NS_PER_S  # two beats: after an oversleep every healthy worker has time to beat again
BEYOND_REPAIR_NS = 10 * NS_PER_S  # SIGKILL ends a process in milliseconds, unless the kernel itself is stuck with it


class Fleet:
    """All slots of one master."""

    def __init__(self, supervision: Supervision, rng: random.Random) -> None:
        """Plan for `supervision.workers` slots, all EMPTY and due at once; `rng` is the source of the jitter."""
        self._slots = Slots(supervision.drain_timeout_s, rng)
        self._replacing = Replacing(self._slots)
        self.wanted = 0
        """How many workers there shall be."""
        self._boot_ns = round(supervision.boot_timeout_s * NS_PER_S)
        self._burst = supervision.burst
        self._ever_ready = False
        self._judge_from_ns = 0
        self._stop_deadline_ns: int | None = None
        self._forced = False
        self._worst_stop = ExitCode.OK
        self._grow(supervision.workers, Reason.START, now_ns=0)

    def __repr__(self) -> str:
        slots = " ".join(f"{slot.number}:{slot.state.name}({slot.pid or '-'})" for slot in self.slots)
        return f"<Fleet {slots}>"

    @property
    def slots(self) -> Sequence[Slot]:
        """All slots, by number."""
        return self._slots.all

    @property
    def roll(self) -> Roll:
        """How the last reload goes, or went."""
        return self._replacing.roll

    @property
    def reloads(self) -> Mapping[RollState, int]:
        """How many reloads were done, and how many refused."""
        return self._replacing.reloads

    @property
    def generation(self) -> int:
        """The generation of the code that a worker loads when it is forked now."""
        return self._replacing.roll.generation

    @property
    def ready(self) -> int:
        """How many workers consume from all their queues."""
        return sum(slot.is_ready for slot in self.slots)

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code with which the service ends now; None while there is something left to do."""
        if any(slot.pid is not None for slot in self.slots):
            return None
        if self._stop_deadline_ns is not None:
            return ExitCode.FORCED if self._forced else self._worst_stop
        verdicts = {slot.verdict for slot in self.slots if slot.is_wanted}
        if None in verdicts:
            return None
        return verdicts.pop() if len(verdicts) == 1 else ExitCode.NEVER_READY

    @property
    def is_stopping(self) -> bool:
        """Whether the service is on its way to its end."""
        return self._stop_deadline_ns is not None

    @property
    def stop_deadline_ns(self) -> int | None:
        """The instant by which every worker has been told to die; None while the service is to go on."""
        return self._stop_deadline_ns

    def is_beyond_repair(self, now_ns: int) -> bool:
        """Whether a worker was sent KILL 10 s ago and is not reaped yet: the kernel is stuck, and so is the master."""
        return any(slot.killed_ns is not None and now_ns - slot.killed_ns > BEYOND_REPAIR_NS for slot in self.slots)

    # ---- what was observed

    def spawned(self, spawn: Spawn, pid: int, now_ns: int) -> None:
        """Take in that a worker was forked as `spawn` asked."""
        self._slots[spawn.slot].spawned(pid, spawn.generation, spawn.boot_deadline_ns, now_ns)

    def spawn_failed(self, spawn: Spawn, now_ns: int) -> None:
        """Take in that the machine could not fork. No slot is given up for it, since no worker is at fault."""
        self._slots.try_again(self._slots[spawn.slot], SlotEvent.RETRY, Reason.FORK_FAILED, now_ns)

    def observe(self, number: int, look: Look, now_ns: int) -> None:
        """Take in what the board says of slot `number`; another deadline means that its worker has beaten."""
        slot = self._slots[number]
        if slot.pid is None:
            return
        if look.deadline_ns != slot.deadline_ns:
            slot.deadline_ns = look.deadline_ns
            if slot.state is SlotState.STARTING or slot.can_come_back:
                self._beats(slot, now_ns)
        slot.wish = look.wish
        slot.is_burst_over = look.is_burst_over
        slot.show_ready(look.is_ready and slot.state is SlotState.RUNNING, now_ns)
        if slot.is_ready and slot.relief is not None:
            self._replacing.became_ready(slot, now_ns)

    def broke(self, number: int, fault: str, now_ns: int) -> None:
        """Take in that what the worker of slot `number` has written to its slot makes no sense: it is to be killed."""
        slot = self._slots[number]
        if slot.pid is not None and slot.state is not SlotState.KILLING and not slot.is_broken:
            slot.break_off(fault, now_ns)

    def became_ready(self, now_ns: int) -> None:
        """Take in that some worker is or was ready: slots that were given up before are wanted again."""
        if self._ever_ready:
            return
        self._ever_ready = True
        for slot in self.slots:
            if slot.is_wanted and slot.verdict not in (None, ExitCode.OK) and self._stop_deadline_ns is None:
                slot.verdict = None
                self._slots.try_again(slot, SlotEvent.RETRY, Reason.RETRY, now_ns)

    def overslept(self, now_ns: int) -> None:
        """Judge no worker as late for 2 s: the master was held up, so perhaps the whole machine was."""
        self._judge_from_ns = now_ns + WITHHOLD_NS

    def exited(self, pid: int, status: int, now_ns: int, cause: Cause = Cause.UNKNOWN) -> Exit:
        """Take in that the worker `pid` was reaped with `status`, an exit code or minus a signal number.

        A death that a deadly queue has caused is no failure of the slot: the worker is started again at once.
        """
        slot = next(slot for slot in self.slots if slot.pid == pid)
        uptime_s = (now_ns - slot.spawned_ns) / NS_PER_S
        was_killed = slot.killed_ns is not None
        has_finished = self._burst and slot.is_burst_over and status == ExitCode.OK
        slot.reaped()
        if self._stop_deadline_ns is not None or not slot.is_wanted:
            outcome = _outcome_of_stop(slot, status)
            as_asked = outcome is ExitCode.OK
            if self._stop_deadline_ns is not None:
                self._worst_stop = max(self._worst_stop, outcome)
            reason = slot.reason if slot.is_condemned or not slot.is_wanted else Reason.STOP
            slot.move(SlotEvent.LEFT, reason)
        elif has_finished:
            slot.verdict = ExitCode.OK
            slot.move(SlotEvent.LEFT, Reason.BURST)
            self.became_ready(now_ns)
            as_asked = True
        else:
            failures = slot.failures
            self._failed(slot, status, cause, now_ns)
            if cause is Cause.DEADLY_QUEUE and slot.state is SlotState.BACKOFF:
                slot.failures, slot.respawn_ns = failures, now_ns
            as_asked = False
        retry_in_s = (slot.respawn_ns - now_ns) / NS_PER_S if slot.state is SlotState.BACKOFF else None
        return Exit(slot.number, pid, status, slot.reason, as_asked, uptime_s, retry_in_s, was_killed)

    def forgive(self, now_ns: int) -> None:
        """Take in that the failures so far were no fault of the slots: slots in BACKOFF are started again at once."""
        for slot in self.slots:
            slot.failures = 0
            if slot.state is SlotState.BACKOFF:
                slot.respawn_ns = now_ns

    # ---- what the operator wants

    def reload(self, now_ns: int) -> None:
        """Replace all workers by new ones, which load the code anew. A second call begins the roll again."""
        if self._stop_deadline_ns is not None:
            return
        if self._burst:
            text = "no reload: with --burst, workers leave when the queues are empty"
            _LOG.warning(text, extra=log_event("reload_ignored"))
            return
        self._replacing.begin_roll(now_ns)
        for slot in self.slots:  # it may have been the old code that failed
            slot.failures = slot.failed_starts = 0
            slot.verdict = None
            slot.respawn_ns = now_ns

    def scale(self, workers: int, now_ns: int) -> None:
        """Change the number of workers. Raises ValueError below 1 and above MAX_WORKERS, leaving workers included."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"there can be from 1 to {MAX_WORKERS} workers, not {workers}")
        if self._stop_deadline_ns is not None or workers == self.wanted:
            return
        leaving = sum(slot.is_leaving for slot in self.slots)
        if workers + leaving > MAX_WORKERS:
            raise ValueError(f"there is no room for {workers} workers yet: {leaving} others are still leaving")
        facts = log_event("scale_changed", workers_before=self.wanted, workers=workers)
        _LOG.info("scale: from %d to %d workers", self.wanted, workers, extra=facts)
        if workers > self.wanted:
            self._grow(workers - self.wanted, Reason.SCALE, now_ns)
        else:
            self._shrink(self.wanted - workers, now_ns)

    def stop(self, now_ns: int) -> None:
        """Drain all workers in parallel, and start no more. A second call changes nothing."""
        if self._stop_deadline_ns is not None:
            return
        self._stop_deadline_ns = self._slots.drain_deadline_ns(now_ns)
        for slot in self.slots:
            match slot.state:
                case SlotState.STARTING | SlotState.RUNNING:
                    slot.ask_to_stop(Reason.STOP, self._stop_deadline_ns, now_ns)
                case SlotState.BACKOFF:
                    slot.move(SlotEvent.STOP, Reason.STOP)
                case SlotState.STOPPING | SlotState.ABORTING:
                    slot.hasten(self._stop_deadline_ns)

    def cut_short(self, now_ns: int) -> None:
        """Stop, and cancel running handlers instead of waiting for them."""
        self.stop(now_ns)
        self._forced = True
        for slot in self.slots:
            if slot.state is SlotState.STOPPING:
                slot.cut_short(now_ns)

    def kill(self, now_ns: int) -> None:
        """Kill all workers now."""
        self.stop(now_ns)
        self._forced = True
        for slot in self.slots:
            if slot.pid is not None and slot.state is not SlotState.KILLING:
                slot.kill(now_ns)

    # ---- what follows

    def plan(self, now_ns: int) -> list[Action]:
        """Return what is to be done now. The caller does all of it before it calls again."""
        if self._stop_deadline_ns is None and self._ever_ready and not self._burst:
            self._replacing.plan(now_ns)
        actions: list[Action] = []
        for slot in self.slots:
            if slot.pid is None:
                actions += self._plan_spawn(slot, now_ns)
            else:
                actions += self._plan_orders(slot, slot.pid, now_ns)
        return actions

    def next_wakeup(self, now_ns: int) -> int | None:
        """Return the next instant at which `plan` may have a result though nothing was observed; None for never."""
        instants: list[int] = []
        for slot in self.slots:
            if slot.awaits_a_worker and self._stop_deadline_ns is None:
                instants.append(slot.respawn_ns)
            instants += [step.due_ns for step in slot.steps[:1]]
            if slot.is_judged_by_beats:
                instants.append(max(slot.deadline_ns + 1, self._judge_from_ns))
        if (replacing_ns := self._replacing.next_wakeup(now_ns)) is not None:
            instants.append(replacing_ns)
        return min(instants, default=None)

    def _plan_spawn(self, slot: Slot, now_ns: int) -> list[Action]:
        if self._stop_deadline_ns is not None or not slot.awaits_a_worker or now_ns < slot.respawn_ns:
            return []
        is_on_trial = slot.relief is not None or self._replacing.starts_on_trial
        return [Spawn(slot.number, self.generation, is_on_trial, now_ns + self._boot_ns)]

    def _plan_orders(self, slot: Slot, pid: int, now_ns: int) -> list[Action]:
        if slot.is_judged_by_beats and now_ns > slot.deadline_ns and now_ns >= self._judge_from_ns:
            slot.abort(now_ns)
        return [Send(slot.number, pid, order) for order in slot.take_due(now_ns)]

    # ---- how many

    def _grow(self, workers: int, reason: Reason, now_ns: int) -> None:
        self.wanted += workers
        for _ in range(workers):
            self._slots.want_one_more(reason, now_ns)

    def _shrink(self, workers: int, now_ns: int) -> None:
        """Stop workers: first those that do not work now, then the youngest."""
        self.wanted -= workers
        self._replacing.end_trial(Reason.SCALE, now_ns)
        wanted = sorted(self._slots.wanted, key=lambda slot: (slot.is_ready, slot.pid is not None, -slot.number))
        for slot in wanted[:workers]:
            self._slots.dismiss(slot, Reason.SCALE, now_ns)

    # ---- single workers

    def _beats(self, slot: Slot, now_ns: int) -> None:
        reason, kill_ns = slot.reason, slot.kill_ns
        slot.beats(now_ns)
        if self._stop_deadline_ns is not None:
            slot.ask_to_stop(Reason.STOP, self._stop_deadline_ns if kill_ns is None else kill_ns, now_ns)
        elif kill_ns is not None:
            slot.ask_to_stop(reason, kill_ns, now_ns)

    def _failed(self, slot: Slot, status: int, cause: Cause, now_ns: int) -> None:
        """Decide what follows the end of a worker that nobody had stopped."""
        reason = _reason_of_failure(slot, status)
        if self._ever_ready and _has_settled(slot, now_ns):
            slot.failures = 0
        if slot.relief is not None:
            self._replacing.trial_failed(slot, status, reason, cause, now_ns)
        elif self._replacing.take_place_of(slot, reason):
            return
        elif self._ever_ready or cause is not Cause.UNKNOWN:
            self._slots.try_again(slot, SlotEvent.FAILED, reason, now_ns)
        else:
            self._start_failed(slot, status, reason, now_ns)

    def _start_failed(self, slot: Slot, status: int, reason: Reason, now_ns: int) -> None:
        slot.failed_starts += 1
        if status in NEEDS_A_HUMAN:
            self._give_up(slot, ExitCode(status), reason)
        elif slot.failed_starts >= START_ATTEMPTS:
            self._give_up(slot, ExitCode.NEVER_READY, reason)
        else:
            self._slots.try_again(slot, SlotEvent.FAILED, reason, now_ns)

    def _give_up(self, slot: Slot, verdict: ExitCode, reason: Reason) -> None:
        slot.verdict = verdict
        slot.move(SlotEvent.LEFT, reason)


def _has_settled(slot: Slot, now_ns: int) -> bool:
    return slot.running_since_ns is not None and now_ns - slot.running_since_ns >= SETTLED_AFTER_NS


def _reason_of_failure(slot: Slot, status: int) -> Reason:
    if slot.is_condemned:
        return Reason.BROKEN if slot.reason is Reason.BROKEN else Reason.HANG
    return Reason.LEFT_UNASKED if status == ExitCode.OK else Reason.CRASH


def _outcome_of_stop(slot: Slot, status: int) -> ExitCode:
    """Return what a worker that ended during a stop means for the exit code of the service."""
    if status in (ExitCode.OK, -signal.SIGTERM):  # SIGTERM kills only a worker that has not installed its handlers yet
        return ExitCode.OK
    if status == ExitCode.DRAIN_TIMEOUT or (slot.is_condemned and slot.reason is not Reason.BROKEN):
        return ExitCode.DRAIN_TIMEOUT
    return ExitCode.RUNTIME
