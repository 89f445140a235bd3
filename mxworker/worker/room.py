"""The bound on all handlers of a process together, beside the bound that each has for itself."""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Waiter(Protocol):
    """Who wants room: it starts one unit when it is called, if it still has one to start."""

    def start_one(self) -> None:
        """Take room and start, and ask again for the next one; or leave it to others."""


class Room:
    """Room for `limit` running units. Who found none is called when there is some, in the order of asking."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiters: deque[Waiter] = deque()  # each dispatcher at most once

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
        self._free += 1
        self.serve()

    def serve(self) -> None:
        """Call who waits, for one unit each and in turn, while there is room."""
        while self._waiters and self._free > 0:
            self._waiters.popleft().start_one()
