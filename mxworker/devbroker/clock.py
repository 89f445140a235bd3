"""Time for every timer of the broker: it passes by itself, and tests move it forward.

A timer fires at its own instant: `advance` stops at each of them, in their order, so that what a timer does sees the
time at which it would have happened. Timers that these set fire as well when they are due before the end of the
advance. Pure: the clock is told how to read the time; `running_clock` has the event loop call it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """Something to do at an instant, in milliseconds of its clock."""

    __slots__ = ("action", "at_ms", "number")

    def __init__(self, at_ms: float, number: int, action: Callable[[], object]) -> None:
        self.at_ms = at_ms
        self.number = number
        self.action: Callable[[], object] | None = action

    def __lt__(self, other: Timer) -> bool:
        return (self.at_ms, self.number) < (other.at_ms, other.number)

    def cancel(self) -> None:
        """Make the timer do nothing. Fired or cancelled already: nothing happens."""
        self.action = None


class Clock:
    """A reading in milliseconds plus what was advanced, and the timers that wait on it.

    `read_ms` never goes back. `on_nearer` is called when the nearest timer has become an earlier one.
    """

    def __init__(self, read_ms: Callable[[], float], on_nearer: Callable[[], object] = lambda: None) -> None:
        self._read_ms = read_ms
        self._on_nearer = on_nearer
        self._advanced_ms = 0.0
        self._stopped_at_ms: float | None = None  # while timers fire: the instant of the one that does
        self._timers: list[Timer] = []
        self._made = 0

    @property
    def now_ms(self) -> float:
        """The time; while a timer fires, its own instant."""
        return self._running_ms() if self._stopped_at_ms is None else self._stopped_at_ms

    @property
    def advanced_ms(self) -> float:
        """How far the clock was moved in all."""
        return self._advanced_ms

    def call_later(self, delay_ms: float, action: Callable[[], object]) -> Timer:
        """Have `action` called after `delay_ms`."""
        return self.call_at(self.now_ms + delay_ms, action)

    def call_at(self, at_ms: float, action: Callable[[], object]) -> Timer:
        """Have `action` called at an instant; one that has passed is due at once, but never inside this call."""
        self._made += 1
        timer = Timer(at_ms, self._made, action)
        heapq.heappush(self._timers, timer)
        if self._timers[0] is timer:
            self._on_nearer()
        return timer

    def nearest_ms(self) -> float | None:
        """Return the instant of the nearest timer; None when nothing waits."""
        timers = self._timers
        while timers and timers[0].action is None:
            heapq.heappop(timers)
        return timers[0].at_ms if timers else None

    def fire_due(self) -> int:
        """Fire the timers that are due; return how many."""
        return self._fire_until(self._running_ms())

    def advance(self, by_ms: float) -> int:
        """Move the time forward, firing the timers on the way at their own instants; return how many fired."""
        if by_ms < 0:
            raise ValueError("a clock goes forward only")
        until_ms = self._running_ms() + by_ms
        fired = self._fire_until(until_ms)
        self._advanced_ms += by_ms
        self._on_nearer()
        return fired

    def _fire_until(self, until_ms: float) -> int:
        fired = 0
        begun_ms = self._running_ms()
        try:
            while (at_ms := self.nearest_ms()) is not None and at_ms <= until_ms:
                timer = heapq.heappop(self._timers)
                action, timer.action = timer.action, None
                assert action is not None
                self._stopped_at_ms = max(at_ms, begun_ms)  # a late timer does not turn the time back
                action()
                fired += 1
        finally:
            self._stopped_at_ms = None
        return fired

    def _running_ms(self) -> float:
        return self._read_ms() + self._advanced_ms
