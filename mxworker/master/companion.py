"""A child of the master's process that is neither a worker nor the observer, such as an embedded broker.

It was started before the master, and its owner decides what becomes of it.
"""

from __future__ import annotations

from typing import Protocol


class Companion(Protocol):
    """The owner's part in the master's loop. Nothing here may wait or raise. Instants are monotonic nanoseconds."""

    def take_end(self, pid: int, status: int) -> bool:
        """Take in that the master has reaped this child, if it is the companion's; return whether it is."""

    def act(self, now_ns: int) -> None:
        """Do what is due; called in each turn of the loop."""

    def next_wakeup(self) -> int | None:
        """Return the next instant at which `act` may have something to do."""
