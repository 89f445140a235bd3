"""The promise under kill -9: every message is handled, none is lost, and the service never stops."""

from __future__ import annotations

import random
from collections.abc import Callable
from signal import SIGKILL

from tests.broker.apps import Recorded
from tests.harness.waiting import wait_until
from tests.rabbit.node import Node

WORKERS = 2
CONCURRENCY = 16
PREFETCH = 2 * CONCURRENCY


def test_killed_workers_lose_nothing(
    recorded: Recorded, node: Node, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    messages, kills = scale(10_000, 100_000), scale(6, 12)
    recorded.publish(messages)
    with recorded.service(f"--workers={WORKERS}", work_s=0.008, concurrency=CONCURRENCY) as service:
        service.wait_ready()
        for kill in range(1, kills + 1):
            due = 2 * messages * kill // (kills + 1)
            wait_until(lambda due=due: recorded.handled >= due and service.workers(), 120, f"{due} records")
            service.kill_worker(rng)
        wait_until(lambda: recorded.handled >= 2 * messages, 120, "all messages")
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
        recorded.wait_until_settled(node)
        assert service.exit_code is None
        service.stop()
        assert service.exit_code == 0
    report = recorded.judge()
    print(f"{kills} kills: {report}; {report.duplicate_count} duplicates of at most {PREFETCH * kills}")
    assert report.nothing_lost, report
    assert not report.in_queue, report
    assert report.duplicate_count <= PREFETCH * kills, report


def test_workers_die_with_a_killed_master(recorded: Recorded) -> None:
    recorded.publish(2_000)
    with recorded.service(f"--workers={WORKERS}", work_s=0.01) as service:
        service.wait_ready()
        wait_until(lambda: recorded.handled > 100, 30, "some work")
        workers = service.workers()
        service.signal(SIGKILL)
        wait_until(lambda: not any(worker.is_alive for worker in workers), 3, "the end of all workers")
    assert recorded.judge().nothing_lost
