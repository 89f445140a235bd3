"""Wait for a condition with a deadline, instead of sleeping and hoping.

The deadline that a test gives is for a machine with nothing else to do; one that is busy gets six times as long, up to
a minute, before a missing fact counts as a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_TIMES_LONGER = 6
_LONG_ENOUGH_S = 60.0
_PAUSE_S = 0.01  # long enough to leave the processor to what is waited for


def wait_until(condition: Callable[[], T], within_s: float = 10.0, what: str = "") -> T:
    """Return the first true value of `condition`; AssertionError says `what` did not come in time."""
    deadline = time.monotonic() + _patience_s(within_s)
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {_patience_s(within_s):g}s in vain for {what or condition}")
        time.sleep(_PAUSE_S)
    return value


async def until(condition: Callable[[], T], within_s: float = 10.0, what: str = "") -> T:
    """Do as `wait_until` does while the event loop goes on."""
    deadline = time.monotonic() + _patience_s(within_s)
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {_patience_s(within_s):g}s in vain for {what or condition}")
        await asyncio.sleep(_PAUSE_S)
    return value


def _patience_s(within_s: float) -> float:
    return max(within_s, min(_TIMES_LONGER * within_s, _LONG_ENOUGH_S))
