"""Publishes that have no outcome yet, in their order: a bounded number of them, sent at a bounded rate."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from mxworker.api.receipts import Receipt
from mxworker.errors import PublishError

T = TypeVar("T")

_LOOK_EVERY_S = 0.05


class OpenPublishes(Generic[T]):
    """At most so many publishes without an outcome. Belongs to one event loop.

    Await `turn` before each publish, `add` it, and await `end_all` after the last one.
    """

    def __init__(
        self, most: int, most_bytes: int, rate: float | None, on_outcome: Callable[[T, PublishError | None], None]
    ) -> None:
        """`rate` is the most publishes a second. `on_outcome` gets what a publish was for, and None or its error."""
        self._most = most
        self._most_bytes = most_bytes
        self._rate = rate
        self._on_outcome = on_outcome
        self._loop = asyncio.get_running_loop()
        self._due_at = self._loop.time()
        self._open: deque[tuple[Receipt, int, T]] = deque()  # at most `most`
        self._open_bytes = 0

    async def turn(self) -> None:
        """Wait until another publish may be sent."""
        if self._rate:
            await self._end_done(until=self._due_at)
            self._due_at = max(self._due_at + 1 / self._rate, self._loop.time() - 1)
        while self._open and (len(self._open) >= self._most or self._open_bytes >= self._most_bytes):
            await self._end_first()

    def add(self, receipt: Receipt, size_bytes: int, what: T) -> None:
        """Note a publish that was sent, with the size of its body, and what it is for."""
        self._open.append((receipt, size_bytes, what))
        self._open_bytes += size_bytes

    async def end_all(self) -> None:
        """Wait for the outcomes of all publishes."""
        while self._open:
            await self._end_first()

    async def _end_done(self, until: float) -> None:
        """End the publishes that are confirmed, until it is time for the next one."""
        while (left_s := until - self._loop.time()) > 0:
            if self._open and self._open[0][0].done():
                await self._end_first()
            else:
                await asyncio.sleep(min(left_s, _LOOK_EVERY_S))

    async def _end_first(self) -> None:
        """Wait for the outcome of the oldest publish."""
        receipt, size_bytes, what = self._open.popleft()
        self._open_bytes -= size_bytes
        try:
            await receipt
        except PublishError as error:
            self._on_outcome(what, error)
        else:
            self._on_outcome(what, None)
