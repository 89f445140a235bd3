"""The bound on the running units of all handlers of a process. Each handler has its own bound, too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Waiter(Protocol):
    """A dispatcher that wants to start a unit when a place is free."""

    def start_one(self) -> None:
        """Take a place, start one unit, and ask again for the next. Do nothing when there is none to start."""


class Limiter:
    """Places for `limit` running units. Waiters that were refused are called back, first come, first served.

    The limiter can be closed for all but one unit at a time, which then needs no place.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._kept = 0  # while it is closed: the free places; below 0 for units that run without one
        self._on_left: Callable[[], None] | None = None
        self._waiters: deque[Waiter] = deque()  # each dispatcher at most once

    @property
    def is_wanted(self) -> bool:
        """Whether a dispatcher waits for a place."""
        return bool(self._waiters)

    @property
    def is_uncontended(self) -> bool:
        """Whether the place of a unit that has ended may go to the next unit of the same handler."""
        return not self._waiters and self._on_left is None

    @property
    def is_closed(self) -> bool:
        """Whether it is closed for all but one unit."""
        return self._on_left is not None

    def take(self, waiter: Waiter, most: int = 1) -> int:
        """Take places for up to `most` units and return for how many; when they are fewer, remember `waiter`."""
        taken = min(most, max(0, self._free))
        self._free -= taken
        if taken < most:
            self.ask(waiter)
        return taken

    def ask(self, waiter: Waiter) -> None:
        """Remember `waiter` for the next `serve`."""
        if waiter not in self._waiters:
            self._waiters.append(waiter)

    def leave(self, count: int = 1) -> None:
        """Give the places of units back that have ended."""
        if self._on_left is not None:
            self._kept += count
            self._on_left()
            return
        self._free += count
        if self._waiters:
            self.serve()

    def serve(self) -> None:
        """Call the waiters in turn, for one unit each, while a place is free."""
        while self._waiters and self._free > 0:
            self._waiters.popleft().start_one()

    # ---- for units that run alone

    def close(self, on_left: Callable[[], None]) -> None:
        """Give no more places until `open`, and call `on_left` whenever a unit has left."""
        self._kept, self._free = self._free, 0
        self._on_left = on_left

    def enter_closed(self) -> None:
        """Count a unit that runs while the limiter is closed. Its end is a `leave`, too."""
        self._kept -= 1

    def open(self) -> None:
        """Give places again, first to the waiters."""
        self._free, self._on_left = self._kept, None
        self.serve()
