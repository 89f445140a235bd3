"""A cluster whose quorum leader dies again and again: nothing is lost, and work goes on within 15 s each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.broker.apps import Recorded
from tests.chaos.traffic import Traffic, traffic
from tests.harness import ledger
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.cluster import Cluster

RECOVERED_WITHIN_S = 15.0
WORKERS = 2
CONCURRENCY = 32
PREFETCH = 2 * CONCURRENCY


def _recovery_s(killed_at: float, recorded: Recorded, flow: Traffic, workers: set[int]) -> float:
    """Wait until a message begun after the kill was confirmed, and every worker handled one; return how long it took.

    What a worker held at the kill does not count: it is handled even by one that will never get anything again.
    """
    skip = recorded.handled
    took_s: dict[int, float] = {}

    def all_work() -> bool:
        fresh = flow.confirmed_since(killed_at)
        for record in ledger.read(recorded.path, skip):
            if record.event is ledger.FINISH and record.id in fresh:
                took_s.setdefault(record.pid, record.at_ns / 1e9 - killed_at)
        return workers <= took_s.keys()

    wait_until(all_work, RECOVERED_WITHIN_S, f"work of {workers} after the kill; so far {took_s}")
    return max(took_s.values())


def test_killed_quorum_leaders_lose_nothing(tmp_path: Path, seed: int, scale: Callable[[int, int], int]) -> None:
    messages, kills = scale(2_000, 20_000), scale(2, 10)
    with Cluster(tmp_path / "cluster") as cluster:
        recorded = Recorded(cluster.urls[0], tmp_path, "orders")
        recorded.declare()
        with recorded.service(
            f"--workers={WORKERS}", work_s=0.02, concurrency=CONCURRENCY, url=" ".join(cluster.urls)
        ) as service:
            service.wait_ready()
            cluster.sync()
            workers = set(service.worker_pids())
            recoveries_s = []
            with traffic(cluster.urls, recorded.queue, messages) as flow:
                wait_until(lambda: recorded.handled > 100, 30, "some work")
                for _ in range(kills):
                    leader = cluster.leader_of(recorded.queue)
                    killed_at = time.monotonic()
                    leader.kill()
                    recoveries_s.append(_recovery_s(killed_at, recorded, flow, workers))
                    cluster.restart(leader, recorded.queue)
            confirmed = flow.reported.confirmed
            wait_until(lambda: confirmed <= recorded.finished_ids, 60, "every confirmed message")
            assert set(service.worker_pids()) == workers, "no process was replaced for the broker's fault"
            service.stop()
            assert service.exit_code == 0
        with Client(cluster.urls[0]) as client:
            left = [message.body.decode() for message in client.drain(recorded.queue)]
            assert not client.drain(f"{recorded.queue}.dlq")
    handled = [record.id for record in ledger.read(recorded.path) if record.event is ledger.START]
    figures = flow.reported.check([*handled, *left])
    slowest = ", ".join(f"{recovery_s:.1f}" for recovery_s in recoveries_s)
    print(f"seed {seed}, {kills} leaders killed, recovered after {slowest} s: {figures}")
    assert not left
    assert len(confirmed) > messages * 0.9
    assert len(handled) - len(set(handled)) <= kills * WORKERS * PREFETCH
