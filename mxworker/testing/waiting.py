"""Waits for facts, each with a deadline. A wait that does not end says what it waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class StillWaiting(AssertionError):
    """What a test waited for did not happen in time. The text says what, and how things stood at the end."""


class Changes:
    """Wakes those who wait for a fact whenever something has changed. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def note(self) -> None:
        """Have all look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, is_so: Callable[[], bool], deadline: float, why_not: Callable[[], str]) -> None:
        """Wait until `is_so` returns True. Raise StillWaiting at the loop time `deadline`, with the text `why_not`."""
        loop = asyncio.get_running_loop()
        while not is_so():
            future = loop.create_future()
            self._waiting.add(future)
            try:
                await asyncio.wait({future}, timeout=max(0.0, deadline - loop.time()))
            finally:
                self._waiting.discard(future)
            if not future.done() and loop.time() >= deadline and not is_so():
                raise StillWaiting(why_not())
