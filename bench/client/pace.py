"""The loops in which programs with asyncio publish: a closed one with a window, and an open one with a rate."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from bench.client import job
from bench.client.profiling import Profiling

Publish = Callable[[], Awaitable[object]]


async def run(publish: Publish) -> None:
    """Publish as the job asks, and report. `publish` returns an awaitable of the confirm."""
    profiling = Profiling()
    profiling.begin()
    wall_s, cpu_s = time.monotonic(), job.cpu_s()
    late_ms = await (open_loop(publish, job.MESSAGES, job.RATE) if job.RATE else closed_loop(publish))
    report = {"wall_s": time.monotonic() - wall_s, "cpu_s": job.cpu_s() - cpu_s}
    profiling.end()
    job.report(report | percentiles(late_ms))


def run_one_by_one(publish: Callable[[], object]) -> None:
    """Publish all messages, each when the call before has returned, and report: for clients that block."""
    wall_s, cpu_s = time.monotonic(), job.cpu_s()
    for _ in range(job.MESSAGES):
        publish()
    job.report({"wall_s": time.monotonic() - wall_s, "cpu_s": job.cpu_s() - cpu_s})


async def closed_loop(publish: Publish) -> list[float]:
    """Publish with at most a window unconfirmed. Latencies are not measured."""
    unconfirmed: deque[Awaitable[object]] = deque()
    for _ in range(job.MESSAGES):
        if len(unconfirmed) == job.WINDOW:
            await unconfirmed.popleft()
        unconfirmed.append(publish())
    for confirmation in unconfirmed:
        await confirmation
    return []


async def open_loop(publish: Publish, messages: int, rate: float) -> list[float]:
    """Publish a message every 1/rate seconds, whatever happens, and return how late each confirm came, in ms."""
    loop = asyncio.get_running_loop()
    late_ms: list[float] = []

    async def one(due: float) -> None:
        await publish()
        late_ms.append((loop.time() - due) * 1000)

    started_at = loop.time()
    tasks = []
    for number in range(messages):
        due = started_at + number / rate
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return late_ms


def percentiles(late_ms: list[float]) -> dict[str, float]:
    """Return the percentiles that the report shows; none when nothing was measured."""
    late_ms.sort()
    return {f"p{part}_ms": late_ms[len(late_ms) * part // 100] for part in (50, 95, 99)} if late_ms else {}
