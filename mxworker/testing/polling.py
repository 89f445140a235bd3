"""Waits in a thread without an event loop, each with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from mxworker.testing.waiting import StillWaiting

_LOOK_EVERY_S = 0.005


def until(is_so: Callable[[], bool], timeout: float, what: Callable[[], str]) -> None:
    """Look until `is_so` returns True. Raise StillWaiting after `timeout` seconds, with what it waited for."""
    deadline = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() >= deadline:
            raise StillWaiting(f"waited {timeout:g} s for {what()}")
        time.sleep(_LOOK_EVERY_S)
