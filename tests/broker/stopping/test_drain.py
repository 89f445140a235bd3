"""What a SIGTERM ends in: nothing lost, nothing done twice, in bounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from tests.broker.apps import Recorded
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_sigterm_at_any_moment_loses_and_doubles_nothing(
    queue_type: str,
    broker_url: str,
    queue_name: str,
    tmp_path: Path,
    rng: random.Random,
    scale: Callable[[int, int], int],
) -> None:
    rounds, messages = scale(4, 20), 6_000
    recorded = Recorded(broker_url, tmp_path, queue_name, queue_type)
    recorded.declare()
    for _ in range(rounds):
        recorded.publish(messages)
        due = recorded.handled + rng.randrange(2 * messages)  # two records for each message
        with recorded.service("--workers=2", work_s=rng.choice([0.0, 0.001, 0.002]), concurrency=200) as service:
            service.wait_ready()
            wait_until(lambda due=due: recorded.handled >= due, 60, "the moment")
            service.signal(SIGTERM)
            assert service.wait_exit() == 0
    report = recorded.judge()
    print(f"{rounds} drains: {report}")
    assert report.exactly_once, report


def test_handlers_longer_than_the_drain_timeout_leave_their_messages(
    recorded: Recorded, queue_name: str, admin: Client
) -> None:
    recorded.publish(100)
    with recorded.service("--workers=2", "--drain-timeout=1s", work_s=1e9, concurrency=16) as service:
        wait_until(lambda: recorded.handled == 32, 30, "all handlers to be busy")
        asked_at = time.monotonic()
        service.signal(SIGTERM)
        assert service.wait_exit() == 6
        assert time.monotonic() - asked_at < 1 + 14  # far from the 30 s that a drain may take by default
        assert not service.survivors()
    wait_until(lambda: admin.counts(queue_name).messages == 100, 10, "all messages to be back")


def test_second_sigint_cancels_what_runs_and_says_130(recorded: Recorded, queue_name: str, admin: Client) -> None:
    recorded.publish(8)
    with recorded.service("--workers=1", "--drain-timeout=300s", work_s=1e9, concurrency=8) as service:
        wait_until(lambda: recorded.handled == 8, 30, "all handlers to be busy")
        service.signal(SIGINT)
        service.wait_for_log("draining: ")
        service.signal(SIGINT)
        assert service.wait_exit() == 130
    wait_until(lambda: admin.counts(queue_name).messages == 8, 10, "all messages to be back")


def test_burst_ends_with_0_when_the_queue_is_empty(recorded: Recorded) -> None:
    recorded.publish(500)
    with recorded.service("--workers=2", "--burst", work_s=0.001) as service:
        assert service.wait_exit() == 0
    report = recorded.judge()
    assert report.exactly_once, report
    assert report.finished == 500
