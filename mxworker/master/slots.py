"""The slots of a service: which of them are wanted, and when a failed one is tried again.

One slot more than there are wanted workers may be in use: a replacement is started in the spare one. All instants are
monotonic nanoseconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from mxworker.backoff import RESPAWN
from mxworker.master.slot import NS_PER_S, Slot
from mxworker.master.slot_states import Reason, SlotEvent, SlotState

DRAIN_SLACK_NS = NS_PER_S  # a worker drains by its own deadline; the master's comes later, so that it can exit first


class Slots:
    """All slots of one fleet, numbered from 1. Slots are added, and never removed."""

    def __init__(self, drain_timeout_s: float, rng: random.Random) -> None:
        """Begin with none. `rng` is the source of the backoff's jitter."""
        self.all: list[Slot] = []
        self._drain_ns = round(drain_timeout_s * NS_PER_S) + DRAIN_SLACK_NS
        self._rng = rng

    def __getitem__(self, number: int) -> Slot:
        return self.all[number - 1]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.all)

    @property
    def wanted(self) -> list[Slot]:
        """The slots in which a worker shall run."""
        return [slot for slot in self.all if slot.is_wanted]

    @property
    def serving(self) -> list[Slot]:
        """The wanted slots whose worker runs."""
        return [slot for slot in self.all if slot.is_wanted and slot.state is SlotState.RUNNING]

    @property
    def trial(self) -> Slot | None:
        """The slot of the replacement that is not ready yet; there is at most one."""
        return next((slot for slot in self.all if slot.relief is not None), None)

    def want_one_more(self, reason: Reason, now_ns: int) -> Slot:
        """Have a worker started in a spare slot, and return the slot."""
        slot = self._spare()
        slot.is_wanted = True
        slot.reason = reason
        slot.respawn_ns = now_ns
        slot.failures = slot.failed_starts = 0
        slot.verdict = None
        return slot

    def dismiss(self, slot: Slot, reason: Reason, now_ns: int) -> None:
        """Stop the worker of a slot, if it has one, and start no other there."""
        slot.relief = None
        slot.is_wanted = False
        match slot.state:
            case SlotState.STARTING | SlotState.RUNNING:
                slot.ask_to_stop(reason, self.drain_deadline_ns(now_ns), now_ns)
            case SlotState.ABORTING:
                slot.hasten(self.drain_deadline_ns(now_ns))  # so that it is asked to stop if it comes back
            case SlotState.BACKOFF:
                slot.move(SlotEvent.STOP, reason)

    def drain_deadline_ns(self, now_ns: int) -> int:
        """Return the instant at which a worker that is asked now to stop is killed."""
        return now_ns + self._drain_ns

    def try_again(self, slot: Slot, event: SlotEvent, reason: Reason, now_ns: int) -> None:
        """Start a worker in a slot again, after a backoff."""
        slot.respawn_ns = now_ns + round(RESPAWN.delay_s(slot.failures, self._rng) * NS_PER_S)
        slot.failures += 1
        slot.move(event, reason)

    def _spare(self) -> Slot:
        """Return the first EMPTY slot that is not wanted, or a new slot."""
        spare = next((slot for slot in self.all if slot.state is SlotState.EMPTY and not slot.is_wanted), None)
        if spare is None:
            spare = Slot(len(self.all) + 1)
            self.all.append(spare)
        return spare
