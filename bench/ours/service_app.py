"""The applications of the scenarios that measure a whole service: handlers that do nothing, hold on, or compute."""

import asyncio
import os
import time

from bench.ours import BURNT_S, IN_FLIGHT
from mxworker import Handlers, Queue

idle, held, burning = Handlers(), Handlers(), Handlers()
queue = Queue(os.environ["BENCH_QUEUE"], type="classic", dead_letter=False)
_log = os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # writes of two workers do not mix
_in_flight = 0


@idle.consume(queue, retry=None)
async def consume(payload: dict) -> None:  # type: ignore[type-arg]
    """Do nothing."""


@held.consume(queue, concurrency=IN_FLIGHT, prefetch=IN_FLIGHT, retry=None, timeout=600)
async def hold(payload: dict) -> None:  # type: ignore[type-arg]
    """Count, and hold on to the message if it says so."""
    global _in_flight
    if not payload["held"]:
        return
    _in_flight += 1
    if _in_flight == IN_FLIGHT:
        os.write(_log, b"all")
    await asyncio.sleep(600)


@burning.consume(queue, retry=None)
async def burn(payload: dict) -> None:  # type: ignore[type-arg]
    """Compute for a millisecond, and note when that was done."""
    end = time.thread_time() + BURNT_S
    while time.thread_time() < end:
        pass
    os.write(_log, time.monotonic_ns().to_bytes(8, "big"))
