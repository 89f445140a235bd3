"""The two loops in which every rival publishes: a closed loop with a window, or an open loop with a rate."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

BODY = {"id": 1, "customer": "c-1042", "total": 19.9, "note": "x" * 195}  # 256 bytes of JSON
Publish = Callable[[], Awaitable[object]]


async def run(publish: Publish) -> dict[str, float]:
    """Publish as the environment asks, and return the report. `publish` returns an awaitable of the confirm."""
    messages, window, rate = (float(os.environ[f"BENCH_{name}"]) for name in ("MESSAGES", "WINDOW", "RATE"))
    wall_s, cpu_s = time.monotonic(), _cpu_s()
    late_ms = await (_open(publish, int(messages), rate) if rate else _closed(publish, int(messages), int(window)))
    report = {"wall_s": time.monotonic() - wall_s, "cpu_s": _cpu_s() - cpu_s}
    late_ms.sort()
    if late_ms:
        report |= {"p50_ms": late_ms[len(late_ms) // 2], "p95_ms": late_ms[len(late_ms) * 95 // 100]}
    return report


def write(report: dict[str, float]) -> None:
    """Write the report for the benchmark."""
    Path(os.environ["BENCH_REPORT"]).write_text(json.dumps(report), encoding="utf-8")


async def _closed(publish: Publish, messages: int, window: int) -> list[float]:
    unconfirmed: deque[Awaitable[object]] = deque()
    for _ in range(messages):
        if len(unconfirmed) == window:
            await unconfirmed.popleft()
        unconfirmed.append(publish())
    for confirmation in unconfirmed:
        await confirmation
    return []


async def _open(publish: Publish, messages: int, rate: float) -> list[float]:
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


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
