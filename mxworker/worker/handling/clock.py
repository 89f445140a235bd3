"""The time of handlers: their deadlines, the ages of batches, the pauses of circuit breakers.

In a worker it is the time of the event loop. `mxworker.testing` has a clock that tests move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Drop the call. After the call nothing happens."""


class Clock(Protocol):
    """What an event loop has, too; see there."""

    def time(self) -> float:
        """Return the present instant, in seconds."""

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back at an instant."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back after some seconds."""
