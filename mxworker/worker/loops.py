"""The event loop that a process of ours runs on."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop when the extra `fast` is installed, else asyncio's."""
    try:
        import uvloop  # the extra may be missing
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
