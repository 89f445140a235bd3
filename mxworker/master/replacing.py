"""How a worker is replaced, for a reload or because it wishes to be recycled.

The replacement is started in the spare slot, *on trial*. When the replacement consumes, the old worker drains, and its
slot becomes the spare one. Workers are replaced one at a time, so there are never fewer of them than before. A *roll*
replaces all workers whose code is older than the last reload; workers that wish to be recycled come after it. A
replacement that cannot start is given up, and the old workers go on. New code may start and then die of its first
messages. So the roll replaces one worker, waits until that one has served for a while, and pauses while a new worker
that died has not served again. After three deaths of one new worker the roll is refused.

Pure. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

import logging

from mxworker.board.lifecycle import Wish
from mxworker.errors import NEEDS_A_HUMAN
from mxworker.master.plan import Cause, Roll, RollState
from mxworker.master.slot import NS_PER_S, Replacement, Slot
from mxworker.master.slot_states import Reason, SlotEvent
from mxworker.master.slots import Slots
from mxworker.system.exit_status import in_words
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.master")

START_ATTEMPTS = 3
STEADY_NS = 2 * NS_PER_S  # how long a worker with new code has to serve until a roll trusts it
RECYCLE_AGAIN_NS = 30 * NS_PER_S  # after a replacement that could not start


class Replacing:
    """Decides which worker is replaced next, and what becomes of its replacement."""

    def __init__(self, slots: Slots) -> None:
        """Begin with the first generation of the code, and no roll."""
        self.roll = Roll()
        self.reloads = {RollState.DONE: 0, RollState.REFUSED: 0}
        """How many reloads ended so."""
        self._slots = slots
        self._recycle_from_ns = 0

    @property
    def starts_on_trial(self) -> bool:
        """Whether every worker that is started now may have code that does not serve."""
        return self.roll.state in (RollState.ROLLING, RollState.REFUSED)

    def begin_roll(self, now_ns: int) -> None:
        """Replace all workers by new ones of the next generation."""
        self.roll = Roll(RollState.ROLLING, self.roll.generation + 1)
        facts = log_event("reload_started", generation=self.roll.generation)
        _LOG.info("reload: generation %d", self.roll.generation, extra=facts)
        self.end_trial(Reason.RELOAD, now_ns)

    def plan(self, now_ns: int) -> None:
        """Begin to replace one more worker, or find that the roll is done."""
        if self._slots.trial is not None or any(slot.is_leaving for slot in self._slots):
            return
        if self.roll.state is RollState.ROLLING:
            self._roll_on(now_ns)
        elif now_ns >= self._recycle_from_ns:
            wishful = [slot for slot in self._slots.serving if slot.wish is not Wish.NONE]
            if wishful:
                self._begin_trial(min(wishful, key=lambda slot: slot.spawned_ns), Reason.RECYCLE, now_ns)

    def next_wakeup(self, now_ns: int) -> int | None:
        """Return the next instant at which `plan` may do something though nothing was observed; None for never."""
        instants = [self._recycle_from_ns] if self._recycle_from_ns > now_ns else []
        if self.roll.state is RollState.ROLLING:
            steady_ns = (slot.ready_since_ns + STEADY_NS for slot in self._renewed() if slot.is_ready)
            instants += [instant for instant in steady_ns if instant > now_ns]
        return min(instants, default=None)

    # ---- the roll

    def _roll_on(self, now_ns: int) -> None:
        generation = self.roll.generation
        old = [slot for slot in self._slots.wanted if slot.pid and slot.generation < generation]
        if not old:
            self._end_roll(Roll(RollState.DONE, generation))
            facts = log_event("reload_finished", generation=generation)
            _LOG.info("reload: all workers are of generation %d", generation, extra=facts)
            return
        if any(slot.failures >= START_ATTEMPTS for slot in self._renewed()):
            self._refuse("its workers start, but die")
            return
        serving = next((slot for slot in self._slots.serving if slot in old), None)
        if serving is not None and self._is_trusted(now_ns):
            self._begin_trial(serving, Reason.RELOAD, now_ns)
        # A worker that still starts, or is being aborted, is replaced later.

    def _renewed(self) -> list[Slot]:
        """Return the slots whose worker, the present or the last one, had the newest code."""
        return [slot for slot in self._slots.wanted if slot.spawns and slot.generation == self.roll.generation]

    def _is_trusted(self, now_ns: int) -> bool:
        """Whether one worker has served with the newest code for a while, and every one that died has served again."""
        renewed = self._renewed()
        steady = [slot for slot in renewed if slot.is_ready and now_ns >= slot.ready_since_ns + STEADY_NS]
        return not renewed or (bool(steady) and all(slot in steady for slot in renewed if slot.failures))

    def _refuse(self, why: str) -> None:
        self._end_roll(Roll(RollState.REFUSED, self.roll.generation, why))
        facts = log_event("reload_refused", generation=self.roll.generation, why=why)
        text = "reload refused: generation %d does not serve: %s; the workers go on"
        _LOG.error(text, self.roll.generation, why, extra=facts)

    def _end_roll(self, roll: Roll) -> None:
        self.roll = roll
        self.reloads[roll.state] += 1

    # ---- the replacement

    def _begin_trial(self, old: Slot, reason: Reason, now_ns: int) -> None:
        self._slots.want_one_more(reason, now_ns).relief = Replacement(old.number, reason)

    def became_ready(self, trial: Slot, now_ns: int) -> None:
        """Let the old worker drain: its replacement is ready."""
        assert trial.relief is not None, "a replacement on trial"
        old, reason = self._slots[trial.relief.of], trial.relief.reason
        trial.relief = None
        self._slots.dismiss(old, reason, now_ns)

    def end_trial(self, reason: Reason, now_ns: int) -> None:
        """Stop the replacement that is not ready yet, if there is one."""
        if (trial := self._slots.trial) is not None:
            self._slots.dismiss(trial, reason, now_ns)

    def take_place_of(self, ended: Slot, reason: Reason) -> bool:
        """Let the replacement take the place of the worker that it was to replace, and that ended by itself.

        Return whether there is such a replacement.
        """
        trial = self._slots.trial
        if trial is None or trial.relief is None or trial.relief.of != ended.number:
            return False
        trial.relief = None
        ended.is_wanted = False
        ended.move(SlotEvent.LEFT, reason)
        return True

    def trial_failed(self, trial: Slot, status: int, reason: Reason, cause: Cause, now_ns: int) -> None:
        """Try a replacement again, or give it up when another try would not help.

        Deaths with messages in flight count here: they may be the new code's fault, and the old worker still serves.
        """
        assert trial.relief is not None, "a replacement on trial"
        is_refusal = status in NEEDS_A_HUMAN and cause is Cause.UNKNOWN
        if not is_refusal and reason is not Reason.HANG and trial.failures + 1 < START_ATTEMPTS:
            self._slots.try_again(trial, SlotEvent.FAILED, reason, now_ns)
            return
        relief, trial.relief, trial.is_wanted = trial.relief, None, False
        trial.move(SlotEvent.LEFT, reason)
        why = "it hangs" if reason is Reason.HANG else f"it ends with {in_words(status)}"
        if cause is not Cause.UNKNOWN:
            why += " while it handles messages"
        if relief.reason is Reason.RELOAD:
            self._refuse(why)
        else:
            self._recycle_from_ns = now_ns + RECYCLE_AGAIN_NS
            text = "worker %d cannot be recycled: its replacement does not start: %s; it goes on"
            _LOG.error(text, relief.of, why, extra=log_event("recycle_refused", worker=relief.of, why=why))
