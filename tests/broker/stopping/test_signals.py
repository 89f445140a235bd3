"""A service that works is told to reload and to stop at any moment of its life, by one signal or by several."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, Signals

from tests.broker.apps import Recorded
from tests.harness.service import Service
from tests.harness.waiting import wait_until

ENDS_WITHIN_S = 25.0


def send_at_random(service: Service, rng: random.Random, span_s: float) -> list[Signals]:
    """Send up to three signals at random moments, half of them to the whole group, then a SIGTERM; return all."""
    sent = [rng.choice((SIGTERM, SIGHUP)) for _ in range(rng.randint(0, 3))]
    sent.append(SIGTERM)
    started_at = time.monotonic()
    for signum, at_s in zip(sent, sorted(rng.uniform(0, span_s) for _ in sent), strict=True):
        time.sleep(max(0.0, started_at + at_s - time.monotonic()))  # the moments are what is tested
        if rng.choice((True, False)):
            service.signal(signum)
        else:
            with suppress(ProcessLookupError):  # it has ended already
                os.killpg(service.pid, signum)
    return sent


def test_signals_at_any_moment_lose_and_double_nothing_and_end_in_bounds_without_orphans(
    recorded: Recorded, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    started_at = time.monotonic()
    with recorded.service("--workers=2") as service:
        service.wait_ready()
        to_ready_s = time.monotonic() - started_at
    for _ in range(scale(10, 100)):
        recorded.publish(500)
        with recorded.service("--workers=2", "--log-level=debug", work_s=0.01, concurrency=8) as service:
            sent = send_at_random(service, rng, rng.choice((1.1, 2.0)) * to_ready_s)
            code = service.wait_exit(ENDS_WITHIN_S)
            has_workers = "EMPTY -> STARTING" in service.log_text()
            assert code == 0 or (-code in sent and not has_workers), (code, sent)
            assert not service.survivors(), sent
    report = recorded.judge()
    print(report)
    assert report.exactly_once, report


def test_signals_to_the_group_of_a_service_at_work_double_nothing(
    broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with recorded.service("--workers=2", work_s=1.0, concurrency=8) as service:
        service.wait_ready()
        recorded.publish(200)
        wait_until(lambda: recorded.handled > 8, 10.0, "all to be at work")
        before = set(service.worker_pids())
        os.killpg(service.pid, SIGUSR1)
        service.wait_for_log("runs handler record")
        for signum, event, facts in (
            (SIGUSR2, "pause_changed", {"change": "paused", "queue": None}),
            (SIGUSR2, "pause_changed", {"change": "resumed", "queue": None}),
            (SIGTTIN, "scale_changed", {"workers_before": 2, "workers": 3}),
            (SIGTTOU, "scale_changed", {"workers_before": 3, "workers": 2}),
        ):
            os.killpg(service.pid, signum)
            service.wait_for_event(event, **facts)
        service.wait_workers(2)
        assert set(service.worker_pids()) == before
        os.killpg(service.pid, SIGHUP)
        service.wait_for_event("reload_finished", generation=2)
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 40.0, "all to be handled")
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        assert "left unasked" not in service.log_text()
    report = recorded.judge()
    assert report.exactly_once, report


def test_burst_ends_with_nothing_left_though_each_worker_was_told_to_leave(recorded: Recorded) -> None:
    recorded.publish(200)
    with recorded.service("--workers=2", "--burst", work_s=0.3, concurrency=4) as service:
        wait_until(lambda: recorded.handled > 16, 30.0, "both to be at work")
        for worker in service.workers():
            worker.signal(SIGTERM)
        assert service.wait_exit(60.0) == 0
        assert "left unasked" in service.log_text()
    assert recorded.finished_ids == set(recorded.ids)
    report = recorded.judge()
    assert report.exactly_once, report
