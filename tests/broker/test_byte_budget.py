"""Big bodies against the byte budget, in a real worker process: they are all handled, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.harness import ledger
from tests.harness.processes import Process
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

MB = 1_000_000

HOLDING = """
    import asyncio
    import os

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue(os.environ["QUEUE"], type=os.environ["TYPE"]), concurrency=32, prefetch=64)
    async def hold(body: bytes) -> None:
        message_id = body[:20].decode().strip()
        ledger.start(message_id)
        await asyncio.sleep(float(os.environ["WORK_S"]))
        ledger.finish(message_id)
"""


def peak_rss_bytes(process: Process) -> int:
    """Return the most memory that a process has had resident so far (VmHWM, proc(5))."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.alone
def test_prefetched_bodies_stay_within_the_budget(
    broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    size_bytes = scale(2, 20) * MB
    budget, most_rss_bytes = (f"{scale(26, 256)}MB", scale(95, 450) * MB)
    work_s = scale(3, 10) / 10  # long enough for the bodies to come faster than they are handled
    recorded = Recorded(broker_url, tmp_path, queue_name)
    recorded.declare()
    recorded.ids += [f"message-{number}" for number in range(64)]
    with Client(broker_url) as client:
        client.publish(queue_name, (id_.ljust(20).encode().ljust(size_bytes, b"x") for id_ in recorded.ids))
    started_at = time.monotonic()
    flags = ("--workers=1", f"--prefetch-budget={budget}", "--log-level=debug")
    with recorded.service(*flags, source=HOLDING, work_s=work_s) as service:
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every message")
        (worker,) = service.workers()
        peak_bytes = peak_rss_bytes(worker)
        has_paused = "byte budget" in service.log_text()
    print(f"64 x {size_bytes / MB:g} MB: peak RSS {peak_bytes / MB:.0f} MB, {time.monotonic() - started_at:.1f} s")
    assert peak_bytes < most_rss_bytes
    assert has_paused, "the bodies did not come faster than they were handled"
    report = ledger.check(recorded.ids, ledger.read(recorded.path), [])
    assert report.exactly_once, report
