"""Time that stands still until a test moves it: for the worker's handlers, and for the broker's queues.

Both have their timers on one clock, so retries, batches and deadlines fall due in the order in which they would have.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from mxworker.devbroker.clock import Clock, Timer


class StandingClock:
    """The clock of one test. `queues` is what the broker has; the clock itself is what the worker has, in seconds."""

    def __init__(self) -> None:
        self._now_ms = 0.0
        self.queues = Clock(lambda: self._now_ms)

    def time(self) -> float:
        """Return how far the clock was moved, in seconds; while a timer fires, its own instant."""
        return self.queues.now_ms / 1000

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back when the clock is moved to this instant or past it."""
        at_ms = when * 1000
        while at_ms / 1000 < when:  # a timer that fires must not find that its time has not come
            at_ms = math.nextafter(at_ms, math.inf)
        return self.queues.call_at(at_ms, partial(callback, *args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back when the clock was moved so far."""
        return self.call_at(self.time() + delay, callback, *args)

    def nearest(self) -> float | None:
        """Return the instant of the nearest timer in seconds; None when nothing waits for the clock."""
        nearest_ms = self.queues.nearest_ms()
        return None if nearest_ms is None else nearest_ms / 1000

    def move_to_nearest(self) -> None:
        """Move to the instant of the nearest timer, and fire what is due then. Without a timer nothing happens."""
        nearest_ms = self.queues.nearest_ms()
        if nearest_ms is not None:
            self._move(nearest_ms)

    def move_to(self, instant: float) -> None:
        """Move to an instant, and fire what is due until then."""
        self._move(instant * 1000)

    def _move(self, at_ms: float) -> None:
        self._now_ms = max(self._now_ms, at_ms)
        self.queues.fire_due()
