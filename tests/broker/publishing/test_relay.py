"""What a handler publishes is confirmed before its delivery is acked: whatever dies in between, no output is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.broker.apps import Relayed
from tests.harness.waiting import wait_until
from tests.rabbit.node import Node

WORKERS = 2
CONCURRENCY = 16
PREFETCH = 2 * CONCURRENCY


@pytest.fixture
def relayed(broker_url: str, queue_name: str, tmp_path: Path) -> Iterator[Relayed]:
    made = Relayed(broker_url, tmp_path, queue_name)
    made.declare()
    yield made
    made.delete()


@pytest.mark.parametrize("awaits", [True, False], ids=["publish", "publish_nowait"])
def test_killed_workers_lose_no_output(
    relayed: Relayed, rng: random.Random, scale: Callable[[int, int], int], awaits: bool, node: Node
) -> None:
    messages, kills = scale(2_000, 20_000), scale(3, 12)
    relayed.input.publish(messages)
    with relayed.service(f"--workers={WORKERS}", awaits=awaits, work_s=0.008, concurrency=CONCURRENCY) as service:
        service.wait_ready()
        for kill in range(1, kills + 1):
            due = 2 * messages * kill // (kills + 1)
            wait_until(lambda due=due: relayed.input.handled >= due and service.workers(), 120, f"{due} records")
            service.kill_worker(rng)
        wait_until(lambda: relayed.input.finished_ids == set(relayed.input.ids), 120, "every id")
        relayed.input.wait_until_settled(node)
        assert service.exit_code is None
        service.stop()
        assert service.exit_code == 0
    report, outputs = relayed.input.judge(), relayed.outputs()
    duplicates = outputs.total() - len(outputs)
    print(f"{kills} kills: {report}; {duplicates} duplicate outputs of at most {PREFETCH * kills}")
    assert report.nothing_lost, report
    assert not report.in_queue, report
    assert outputs.keys() == set(relayed.input.ids)
    assert duplicates <= PREFETCH * kills


def test_sigterm_at_any_moment_leaves_each_message_in_exactly_one_queue(
    relayed: Relayed, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    rounds, messages = scale(5, 20), 2_000
    for _ in range(rounds):
        relayed.input.publish(messages)
        awaits, work_s = rng.choice([True, False]), rng.choice([0.0, 0.002])
        due = relayed.input.handled + rng.randrange(2 * messages)  # two records for each message
        with relayed.service(f"--workers={WORKERS}", awaits=awaits, work_s=work_s, concurrency=100) as service:
            service.wait_ready()
            wait_until(lambda due=due: relayed.input.handled >= due, 60, "the moment")
            service.signal(SIGTERM)
            assert service.wait_exit() == 0
    report, outputs = relayed.input.judge(), relayed.outputs()
    print(f"{rounds} drains: {report}; {outputs.total()} outputs")
    assert report.exactly_once, report
    assert outputs.total() == len(outputs) == report.finished
    assert outputs.total() + report.in_queue == len(relayed.input.ids)
