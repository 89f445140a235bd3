"""The bound on all handlers of a process together, beside the bound that each has for itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Waiter(Protocol):
    """Who wants room: it starts one unit when it is called, if it still has one to start."""

    def start_one(self) -> None:
        """Take room and start, and ask again for the next one; or leave it to others."""


class Room:
    """Room for `limit` running units. Who found none is called when there is some, in the order of asking.

    It can be closed for all but one unit at a time, which then needs no room.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._kept = 0  # while it is closed: the free room; below 0 for what runs without
        self._on_left: Callable[[], None] | None = None
        self._waiters: deque[Waiter] = deque()  # each dispatcher at most once

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiters)

    def take(self, waiter: Waiter) -> bool:
        """Take room for one unit; when there is none, remember `waiter` and return False."""
        if self._free > 0:
            self._free -= 1
            return True
        self.ask(waiter)
        return False

    def ask(self, waiter: Waiter) -> None:
        """Remember `waiter` for the next `serve`."""
        if waiter not in self._waiters:
            self._waiters.append(waiter)

    def leave(self) -> None:
        """Give the room of one unit back."""
        if self._on_left is not None:
            self._kept += 1
            self._on_left()
            return
        self._free += 1
        if self._waiters:
            self.serve()

    def serve(self) -> None:
        """Call who waits, for one unit each and in turn, while there is room."""
        while self._waiters and self._free > 0:
            self._waiters.popleft().start_one()

    # ---- for who runs alone

    def close(self, on_left: Callable[[], None]) -> None:
        """Give no more room until `open`, and call `on_left` whenever a unit has left."""
        self._kept, self._free = self._free, 0
        self._on_left = on_left

    def enter_closed(self) -> None:
        """Count one unit that runs although it is closed; it leaves by `leave`, too."""
        self._kept -= 1

    def open(self) -> None:
        """Give room again, beginning with who waits."""
        self._free, self._on_left = self._kept, None
        self.serve()
