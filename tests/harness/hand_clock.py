"""A clock that a test turns by hand, for code that uses only the time and the timers of an event loop."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Timer:
    """What `call_at` returns."""

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.is_cancelled = False
        self._callback = callback
        self._arguments = arguments

    def cancel(self) -> None:
        """Make it never ring."""
        self.is_cancelled = True

    def ring(self) -> None:
        """Call back, unless it was cancelled."""
        if not self.is_cancelled:
            self._callback(*self._arguments)


class HandClock:
    """Time stands still until `advance`. Of an event loop it has `time`, `call_at`, `call_later`, `call_soon`."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._now_s

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(callback, args)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self._now_s + delay, callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self._now_s, callback, *args)

    def advance(self, seconds: float) -> None:
        """Let `seconds` go by and ring every timer that is due, each at its own time."""
        end_s = self._now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            at_s, _, timer = heapq.heappop(self._timers)
            self._now_s = max(self._now_s, at_s)
            timer.ring()
        self._now_s = end_s

    def oversleep(self, seconds: float) -> None:
        """Let `seconds` go by and ring nothing, as when the event loop is blocked; `advance` rings what is due."""
        self._now_s += seconds
