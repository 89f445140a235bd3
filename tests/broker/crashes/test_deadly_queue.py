"""A queue whose every message kills a worker takes the other queues little of their time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.broker.apps import Recorded
from tests.harness import ledger
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

KILLED = re.compile(r"may have been killed by what it handled: (\d+) messages?, .*")
FOUND = "kill workers: all its messages run alone"

TWO_QUEUES = """
    import asyncio
    import ctypes
    import os
    import random

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    concurrency = int(os.environ["CONCURRENCY"])


    @handlers.consume(Queue(os.environ["QUEUE"]), concurrency=concurrency)
    async def work(message_id: str) -> None:
        ledger.start(message_id)
        await asyncio.sleep(random.uniform(0.5, 1.5) * 0.02)  # not in step
        ledger.finish(message_id)


    @handlers.consume(Queue(os.environ["QUEUE"] + ".deadly"), concurrency=concurrency)
    async def kill(message_id: str) -> None:
        ledger.start(message_id)
        if message_id.startswith("kill"):
            ctypes.string_at(0)
        ledger.finish(message_id)
"""


@pytest.fixture
def deadly_queue(queue_name: str, broker_url: str) -> Iterator[str]:
    name = f"{queue_name}.deadly"
    yield name
    with Client(broker_url) as client:
        for beside in ("", ".dlq", ".quarantine"):
            client.delete(f"{name}{beside}")


def test_new_messages_of_a_queue_that_kills_run_alone_and_the_other_queue_goes_on(
    broker_url: str, queue_name: str, deadly_queue: str, tmp_path: Path
) -> None:
    recorded, deadly = (Recorded(broker_url, tmp_path, name) for name in (queue_name, deadly_queue))
    recorded.declare()
    deadly.declare()
    recorded.publish(2000)
    with recorded.service("--workers=2", source=TWO_QUEUES, concurrency=8) as service:
        service.wait_ready()
        deadly.publish_ids([f"kill-{number}" for number in range(30)])
        wait_until(lambda: FOUND in service.log_text(), 120, "the queue to be found")
        before = len(service.log_text())
        recorded.publish(1000)
        wait_until(lambda: recorded.finished_ids >= set(recorded.ids), 300, "the other queue's end")
        wait_until(lambda: len(KILLED.findall(service.log_text()[before:])) >= 3, 300, "more deaths")
        log = service.log_text()[before:]
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
    assert f"queue {queue_name}:" not in log
    assert KILLED.findall(log)[1:] == ["1"] * (len(KILLED.findall(log)) - 1)


@pytest.mark.skipif("not config.getoption('--full')", reason="a rate, for make chaos")
@pytest.mark.parametrize("per_s", [1, 10])
def test_other_queues_keep_their_rate(
    broker_url: str, queue_name: str, deadly_queue: str, tmp_path: Path, per_s: int
) -> None:
    recorded, deadly = (Recorded(broker_url, tmp_path, name) for name in (queue_name, deadly_queue))
    recorded.declare()
    deadly.declare()
    recorded.publish(40_000)

    def rate(from_s: float, to_s: float) -> float:
        finished = [one for one in ledger.read(recorded.path) if one.event is ledger.FINISH]
        return sum(from_s * 1e9 <= one.at_ns < to_s * 1e9 for one in finished) / (to_s - from_s)

    with recorded.service("--workers=2", source=TWO_QUEUES, concurrency=8) as service, Client(broker_url) as client:
        service.wait_ready()
        calm_s = time.monotonic()
        time.sleep(8)
        trouble_s = time.monotonic()
        number = 0
        while time.monotonic() < trouble_s + 30:
            deadly.publish_ids([f"kill-{number}"], client)
            number += 1
            time.sleep(max(0, trouble_s + number / per_s - time.monotonic()))
        over_s = time.monotonic()
        service.signal(SIGTERM)
        service.wait_exit()
    calm, troubled = rate(calm_s, trouble_s), rate(trouble_s, over_s)
    steps = [round(rate(at, at + 2)) for at in range(int(trouble_s), int(over_s) - 2, 2)]
    assert troubled >= 0.7 * calm, (calm, troubled, steps)
