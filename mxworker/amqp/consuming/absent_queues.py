"""Which queues were not there when they were asked about, and when to ask again.

To ask about a queue that does not exist ends the channel, and the broker logs an error each time. So such a queue is
asked about again after a minute, then after two, and so on.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection

FIRST_S = 60.0
MOST_S = 1800.0


class AbsentQueues:
    """The queues that were not there; at most as many as are asked about."""

    def __init__(self) -> None:
        self._waits: dict[str, tuple[float, float]] = {}  # the wait, and the instant at which it ends

    def is_absent(self, name: str, now: float) -> bool:
        """Whether the queue was not there, and need not be asked about again yet."""
        return name in self._waits and now < self._waits[name][1]

    def note(self, name: str, now: float, most_s: float = MOST_S) -> None:
        """Note that the queue was not there."""
        before_s = self._waits.get(name, (FIRST_S / 2, 0.0))[0]
        wait_s = min(2 * before_s, most_s)
        self._waits[name] = wait_s, now + wait_s

    def forget(self, names: Collection[str]) -> None:
        """Ask about these queues again at the next look."""
        for name in names:
            self._waits.pop(name, None)
