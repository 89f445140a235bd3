"""An operator pauses a running service, looks into it, and has it go on."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from signal import SIGUSR1, SIGUSR2

from tests.broker.apps import Recorded
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

IN_FORCE_S = 2.0  # a second, and a machine that is busy
QUIET_S = 1.5  # longer than a beat, so that what is to be obeyed then was obeyed


def consumers(admin: Client, queue: str) -> int:
    return admin.counts(queue).consumers


def test_pause_stops_deliveries_also_to_workers_that_come_later(
    broker_url: str, queue_name: str, admin: Client, tmp_path: Path, rng: random.Random
) -> None:
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with recorded.service("--workers=2") as service:
        service.wait_ready()
        for how in ([], [queue_name]):
            recorded.publish(50)
            wait_until(lambda: recorded.finished_ids == set(recorded.ids), 20, "all to be handled")
            before = recorded.finished_ids
            assert service.mxworker("ctl", "pause", *how).returncode == 0
            wait_until(lambda: consumers(admin, queue_name) == 0, IN_FORCE_S, "the pause")
            service.kill_worker(rng)
            service.wait_workers(2)
            recorded.publish(50)
            wait_until(lambda: ready_workers(service) == 2, 20, "the successor, paused")
            time.sleep(QUIET_S)  # for what must not happen
            assert consumers(admin, queue_name) == 0
            assert recorded.finished_ids == before
            assert service.mxworker("ctl", "resume", *how).returncode == 0
            wait_until(lambda: consumers(admin, queue_name) == 2, IN_FORCE_S, "both to consume again")
            wait_until(lambda: recorded.finished_ids == set(recorded.ids), 20, "the rest")


def ready_workers(service: Service) -> int:
    found: int = json.loads(service.mxworker("status", "--json").stdout)["workers_ready"]
    return found


def test_sigusr2_pauses_and_resumes(broker_url: str, queue_name: str, admin: Client, tmp_path: Path) -> None:
    with Recorded(broker_url, tmp_path, queue_name).service("--workers=2") as service:
        service.wait_ready()
        service.signal(SIGUSR2)
        wait_until(lambda: consumers(admin, queue_name) == 0, IN_FORCE_S, "the pause")
        service.signal(SIGUSR2)
        wait_until(lambda: consumers(admin, queue_name) == 2, IN_FORCE_S, "both to consume again")


def test_dump_tells_what_each_worker_runs(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with recorded.service("--workers=2", "--drain-timeout=1s", work_s=3600) as service:
        service.wait_ready()
        recorded.publish(10)
        wait_until(lambda: recorded.handled == 10, 10, "all to be started")
        assert service.mxworker("ctl", "dump").returncode == 0
        wait_until(lambda: service.log_text().count("runs handler record with message") == 10, 5, "the dump")
        service.signal(SIGUSR1)
        wait_until(lambda: service.log_text().count("runs handler record with message") == 20, 5, "the second one")


def test_status_counts_what_the_workers_did(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with recorded.service("--workers=2", "--name=shop") as service:
        service.wait_ready()
        recorded.publish(100)
        wait_until(lambda: acked(service) == 100, 10, "the count")
        for asked in (["--healthy"], ["--ready", "--name=shop"]):  # which wait 2 s for an answer
            wait_until(lambda asked=asked: service.mxworker("status", *asked).returncode == 0, 30, f"yes to {asked}")  # type: ignore[misc]
        assert service.mxworker("ctl", "log-level", "debug").returncode == 0
        told = json.loads(service.mxworker("status", "--json").stdout)
        assert (told["name"], told["log_level"], told["state"]) == ("shop", "debug", "running")
        assert service.mxworker("ctl", "stop").returncode == 0
        assert service.wait_exit() == 0


def acked(service: Service) -> int:
    workers = json.loads(service.mxworker("status", "--json").stdout)["workers"]
    return sum(worker["acked"] for worker in workers)
