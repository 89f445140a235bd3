"""The event loop of a program: BENCH_UVLOOP asks for uvloop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end."""
    if os.environ.get("BENCH_UVLOOP"):
        import uvloop  # only environments of programs that may be asked for it have it

        uvloop.run(main)
    else:
        asyncio.run(main)


async def until_stopped() -> None:
    """Wait for SIGTERM, with which the benchmark ends a consumer."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
