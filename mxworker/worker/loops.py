"""The event loop that a process of ours runs on.

The master imports this module before it forks, and uvloop with it: 1.1 MB that each worker would else have for itself.
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
