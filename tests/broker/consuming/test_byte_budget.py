"""Big bodies against the byte budget, in a real worker process: they are all handled, within bounds."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pamqp import commands

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
    recorded: Recorded, broker_url: str, queue_name: str, scale: Callable[[int, int], int]
) -> None:
    size_bytes = scale(2, 20) * MB
    budget, most_rss_bytes = (f"{scale(26, 256)}MB", scale(95, 450) * MB)
    work_s = 1.5  # so that the bodies come faster than they are handled, on a busy machine too
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


GROWING = """
    import asyncio
    import os
    import time

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    queue = Queue(os.environ["QUEUE"], type=os.environ["TYPE"])
    work_s = float(os.environ["WORK_S"])


    def begun(payload) -> str:
        message_id = (payload[:20].decode() if isinstance(payload, bytes) else payload["id"]).strip()
        ledger.start(message_id)
        return message_id


    async def hold(payload) -> None:
        message_id = begun(payload)
        await asyncio.sleep(work_s)
        ledger.finish(message_id)


    def hold_in_thread(payload: dict) -> None:
        message_id = begun(payload)
        time.sleep(work_s)
        ledger.finish(message_id)


    async def hold_all(payloads: list[dict]) -> None:
        ids = [begun(payload) for payload in payloads]
        await asyncio.sleep(work_s)
        for message_id in ids:
            ledger.finish(message_id)


    KIND = os.environ["KIND"]
    hold.__annotations__["payload"] = bytes if KIND == "bytes" else dict
    if KIND == "batch":
        handlers.consume_batch(queue, size=16, wait=0.5, concurrency=2, prefetch=64)(hold_all)
    else:
        handlers.consume(queue, concurrency=32, prefetch=64)(hold_in_thread if KIND == "def" else hold)
"""


def table(id_: str, size_bytes: int) -> bytes:
    """Return a JSON object with records in it, of about `size_bytes`."""
    record = b'{"id":12345,"name":"user 12345","active":true,"score":12345.5}'
    return b'{"id":"%s","rows":[%s]}' % (id_.encode(), b",".join([record] * (size_bytes // len(record))))


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["async", "def", "batch"])
def test_large_json_stays_within_the_budget_as_objects(
    kind: str, broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    size_bytes = scale(5, 30) * MB
    ids = [f"message-{number}" for number in range(scale(16, 64))]
    bodies = ((table(id_, size_bytes), commands.Basic.Properties(delivery_mode=2)) for id_ in ids)
    check_growing(kind, ids, bodies, broker_url, queue_name, tmp_path, scale)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["bytes", "async", "batch"])
def test_compressed_bodies_stay_within_the_budget(
    kind: str, broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    size_bytes = scale(14, 64) * MB
    filling = random.Random(1).randbytes(size_bytes // 140).hex().encode()  # with the rest, about 1:67
    ids = [f"message-{number}" for number in range(scale(32, 64))]

    def body(id_: str) -> bytes:
        start = id_.ljust(20).encode() if kind == "bytes" else b'{"id":"%s","x":"' % id_.encode()
        return gzip.compress((start + filling).ljust(size_bytes, b"x") + (b"" if kind == "bytes" else b'"}'), 1)

    properties = commands.Basic.Properties(delivery_mode=2, content_encoding="gzip")
    check_growing(kind, ids, ((body(id_), properties) for id_ in ids), broker_url, queue_name, tmp_path, scale)


def check_growing(
    kind: str,
    ids: list[str],
    messages: Iterable[tuple[bytes, commands.Basic.Properties]],
    broker_url: str,
    queue_name: str,
    tmp_path: Path,
    scale: Callable[[int, int], int],
) -> None:
    """Have all messages handled by one worker, whose memory stays within bounds."""
    budget, most_rss_bytes = (f"{scale(64, 256)}MB", scale(180, 450) * MB)
    recorded = Recorded(broker_url, tmp_path, queue_name)
    recorded.declare()
    with Client(broker_url) as client:
        client.publish_messages(queue_name, messages)
    started_at = time.monotonic()
    flags = ("--workers=1", f"--prefetch-budget={budget}")
    with recorded.service(*flags, source=GROWING, work_s=0.1, env={"KIND": kind}) as service:
        wait_until(lambda: recorded.finished_ids == set(ids), 200, "every message")
        (worker,) = service.workers()
        peak_bytes = peak_rss_bytes(worker)
    print(f"{kind}: peak RSS {peak_bytes / MB:.0f} MB, {time.monotonic() - started_at:.1f} s")
    assert peak_bytes < most_rss_bytes
    report = ledger.check(ids, ledger.read(recorded.path), [])
    assert report.exactly_once, report
