"""How long an event loop has been blocked, by the observations of a thread that watches it.

Time in which nothing of this process could run does not count: the process was stopped, or the machine slept. So only
time counts in which the loop's thread was on a CPU, waited for one, or slept while the watching thread saw it (proc(5),
schedstat). When the loop's thread waited for a CPU for most of that time, the machine is busy, and the loop is not
blocked. Code that keeps the interpreter's lock, as a regular expression does, also keeps the watching thread from
looking, but such code is on a CPU.

Pure. All times are in seconds, instants monotonic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

LOOK_EVERY_S = 0.25
BLOCKED_AFTER_S = 1.0
_LEAST_SHARE = 0.25  # of one CPU, for code that keeps the interpreter's lock
AT_WORK_FOR_S = 0.4  # with four busy threads for each CPU this takes little more than a second


class Spent(NamedTuple):
    """The seconds that a thread was on a CPU, and that it waited for one, since it began."""

    running_s: float
    queued_s: float


class BlockClock:
    """Adds up the time for which the loop has not answered."""

    def __init__(self) -> None:
        self.blocked_s = 0.0
        self._at_work_s = 0.0
        self._looked_at = 0.0
        self._spent = Spent(0.0, 0.0)

    @property
    def is_blocked(self) -> bool:
        """Whether that time is long enough to be logged."""
        return self.blocked_s >= BLOCKED_AFTER_S and self._at_work_s >= AT_WORK_FOR_S

    def restart(self, now: float, spent: Spent) -> None:
        """Begin again: the loop has been asked now. `spent` are the times of its thread so far."""
        self.blocked_s = self._at_work_s = 0.0
        self._looked_at, self._spent = now, spent

    def no_answer(self, now: float, spent: Spent) -> None:
        """Note that the loop has not answered yet. You must call this every `LOOK_EVERY_S`."""
        since_s = now - self._looked_at
        running_s = max(0.0, spent.running_s - self._spent.running_s)
        queued_s = max(0.0, spent.queued_s - self._spent.queued_s)
        self._looked_at, self._spent = now, spent
        # A look that comes much too late did not see whether the loop's thread slept.
        seen_asleep_s = min(max(0.0, since_s - running_s - queued_s), max(0.0, 2 * LOOK_EVERY_S - running_s - queued_s))
        self.blocked_s += running_s + queued_s + seen_asleep_s
        self._at_work_s += running_s + seen_asleep_s

    def answer(self, at: float) -> None:
        """Note that the loop answered at an instant after the last look."""
        self.blocked_s += min(max(0.0, at - self._looked_at), 2 * LOOK_EVERY_S)


class Ran(NamedTuple):
    """The seconds that the process with all its threads was on a CPU so far, and the times of the loop's thread."""

    process_s: float
    loop: Spent


class Standstill(NamedTuple):
    """A time in which no thread could run Python, since one of them kept the interpreter's lock."""

    lasted_s: float
    is_by_loop: bool
    """Whether it was the loop's thread, which ran, or waited for a CPU, for most of the time."""


class StandstillClock:
    """Finds a standstill when it is over: the watching thread looks too late, and the process was on a CPU.

    When it was on none, it was stopped, or the machine slept or was too busy.
    """

    def __init__(self, cpus: int) -> None:
        """`cpus` is how many CPUs the process may use at most."""
        self._most_between_looks_s = 2 * LOOK_EVERY_S * cpus
        self._looked_at = math.inf
        self._ran = Ran(0.0, Spent(0.0, 0.0))

    def is_late(self, now: float) -> bool:
        """Whether a look at this instant comes so late that it may find a standstill."""
        return now - self._looked_at - LOOK_EVERY_S >= BLOCKED_AFTER_S

    def look(self, now: float, ran: Ran) -> Standstill | None:
        """Return the standstill since the last look if it took a second. You must call this every `LOOK_EVERY_S`."""
        is_late, late_s = self.is_late(now), now - self._looked_at - LOOK_EVERY_S
        process_s = ran.process_s - self._ran.process_s
        loop_ran_s = ran.loop.running_s - self._ran.loop.running_s
        loop_queued_s = ran.loop.queued_s - self._ran.loop.queued_s
        self.restart(now, ran)
        if not is_late:
            return None
        if loop_ran_s >= AT_WORK_FOR_S and loop_ran_s + loop_queued_s > late_s / 2:
            return Standstill(late_s, is_by_loop=True)
        # On a busy machine the share is small. A process that was stopped was on its CPUs for no longer than usual.
        if process_s >= max(AT_WORK_FOR_S, min(late_s * _LEAST_SHARE, self._most_between_looks_s)):
            return Standstill(late_s, is_by_loop=False)
        return None

    def restart(self, now: float, ran: Ran) -> None:
        """Begin again: what took time since the last look does not count."""
        self._looked_at, self._ran = now, ran
