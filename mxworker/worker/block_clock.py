"""For how long an event loop has been blocked, going by what the thread that watches it has seen.

A time in which nothing of this process could run is nobody's fault: one in which it was stopped, or the machine slept.
So a time counts in which the loop's thread was on a CPU, or waited for one, or slept while the other thread was there
to see it (proc(5), schedstat). And of the time that counts it must not have spent too much waiting for a CPU, for the
machine is busy then, and the loop may have little to do. Code that keeps the interpreter's lock, as a regular
expression does, keeps the other thread from looking, too, but it is on a CPU.

Pure. All times are in seconds, instants monotonic.
"""

from __future__ import annotations

from typing import NamedTuple

LOOK_EVERY_S = 0.25
BLOCKED_AFTER_S = 1.0
AT_WORK_FOR_S = 0.4  # on a machine with three others for each CPU that is little more than a second


class Spent(NamedTuple):
    """What a thread did since it began: seconds on a CPU, and seconds in which it waited for one."""

    running_s: float
    queued_s: float


class BlockClock:
    """Adds up for how long the loop has not answered."""

    def __init__(self) -> None:
        self.blocked_s = 0.0
        self._at_work_s = 0.0
        self._looked_at = 0.0
        self._spent = Spent(0.0, 0.0)

    @property
    def is_blocked(self) -> bool:
        """Whether that is so long that somebody should know."""
        return self.blocked_s >= BLOCKED_AFTER_S and self._at_work_s >= AT_WORK_FOR_S

    def restart(self, now: float, spent: Spent) -> None:
        """Begin anew: the loop has been asked now. `spent` is what its thread did until then."""
        self.blocked_s = self._at_work_s = 0.0
        self._looked_at, self._spent = now, spent

    def no_answer(self, now: float, spent: Spent) -> None:
        """Take note that the loop has not answered yet; you must look every `LOOK_EVERY_S`."""
        since_s = now - self._looked_at
        running_s = max(0.0, spent.running_s - self._spent.running_s)
        queued_s = max(0.0, spent.queued_s - self._spent.queued_s)
        self._looked_at, self._spent = now, spent
        # Who looks much later than it wanted has not seen that the other slept.
        seen_asleep_s = min(max(0.0, since_s - running_s - queued_s), max(0.0, 2 * LOOK_EVERY_S - running_s - queued_s))
        self.blocked_s += running_s + queued_s + seen_asleep_s
        self._at_work_s += running_s + seen_asleep_s

    def answer(self, at: float) -> None:
        """Take note that the loop answered at an instant since the last look."""
        self.blocked_s += min(max(0.0, at - self._looked_at), 2 * LOOK_EVERY_S)
