"""The ways of using mxworker in this process, and the CPU time of each."""

from __future__ import annotations

import asyncio
from typing import Protocol

from bench.in_process.consuming import Bounds, deliveries_to
from bench.in_process.publishing import Publishes
from mxworker.worker.loops import new_loop

CONSUMING = ("as_bytes", "as_json", "typed", "with_middleware", "batches")
"""The registries of `bench.ours.consume_app`."""
PUBLISHING = "publish"
WAYS = (*CONSUMING, PUBLISHING)


class Flow(Protocol):
    """Something that handles messages, and can do so again and again."""

    async def run(self, messages: int) -> float:
        """Handle `messages` messages, and return the CPU seconds used."""
        ...

    async def close(self) -> None:
        """End it."""
        ...


async def flow(way: str, bounds: Bounds) -> Flow:
    """Return what does it in one of the `WAYS`."""
    return await Publishes.connect(bounds.prefetch) if way == PUBLISHING else deliveries_to(way, bounds)


def cpu_us(way: str, bounds: Bounds, messages: int, rounds: int) -> float:
    """Return the lowest CPU microseconds per message of some rounds."""

    async def measure() -> float:
        made = await flow(way, bounds)
        try:
            return min([await made.run(messages) for _ in range(rounds)]) / messages * 1e6
        finally:
            await made.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(measure())
