"""CPU time of short calls, for tests of what must cost next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def timed(act: Callable[[], T]) -> tuple[T, float]:
    """Return what `act` returns, and the CPU time of the quickest of five calls.

    Others may use up the caches meanwhile, and a collection of garbage of the whole process may fall into one call.
    """
    times_s = []
    for _ in range(5):
        started_at = time.thread_time()
        result = act()
        times_s.append(time.thread_time() - started_at)
    return result, min(times_s)
