"""The event loop that workers and `cpu=True` processes run on.

The master imports this module before it forks, and uvloop with it, so that workers share the 1.1 MB that it takes.
"""

from __future__ import annotations

import asyncio
from importlib import import_module

try:
    _loops = import_module("uvloop")  # the extra `fast`
except ImportError:
    _loops = asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop when the extra `fast` is installed, else asyncio's."""
    loop: asyncio.AbstractEventLoop = _loops.new_event_loop()
    return loop
