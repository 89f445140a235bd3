"""The clock of a running broker: the event loop fires its timers."""

from __future__ import annotations

import asyncio
import time

from mxworker.devbroker.clock import Clock


class RunningClock(Clock):
    """A clock whose due timers the event loop fires. Make it inside the loop; call `stop` at the end."""

    def __init__(self) -> None:
        super().__init__(lambda: time.monotonic() * 1000, self._wake_at_nearest)
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Fire no timers any more."""
        if self._handle is not None:
            self._handle.cancel()
        self._timers.clear()

    def _wake_at_nearest(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        nearest_ms = self.nearest_ms()
        if nearest_ms is not None:
            delay_s = max(0.0, (nearest_ms - self._running_ms()) / 1000)
            self._handle = self._loop.call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._handle = None
        try:
            self.fire_due()
        finally:
            self._wake_at_nearest()
