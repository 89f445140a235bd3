"""When the master dies, its workers die."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.fork.conftest import Start
from tests.harness.waiting import wait_until


def test_no_worker_outlives_a_killed_master(start_ready: Start) -> None:
    service = start_ready("healthy", "--workers", "4")
    service.kill(signal.SIGKILL)
    service.wait_until_gone()


def test_no_worker_outlives_a_master_killed_right_after_a_fork(
    start: Start, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    for _ in range(scale(10, 100)):
        service = start("healthy", "--workers", "4")
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children")
        wait_until(lambda path=children: path.read_text(), 10.0, "the first fork")  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.01))
        service.kill(signal.SIGKILL)
        service.wait_until_gone()


def test_stopped_worker_does_not_outlive_its_master_either(start_ready: Start) -> None:
    service = start_ready("healthy")
    os.kill(service.worker(1), signal.SIGSTOP)
    service.kill(signal.SIGKILL)
    service.wait_until_gone()


def test_fault_of_the_master_drains_the_workers_and_means_code_1(start: Start) -> None:
    service = start("healthy", "--announce-fails")
    assert service.wait() == 1
    assert len(service.events("left")) == 2
    assert service.survivors() == []
    assert "the master failed" in service.stderr()
    assert "made-up fault of the master" in service.stderr()


def test_master_refuses_to_fork_beside_a_thread(start: Start) -> None:
    service = start("healthy", "--second-thread")
    assert service.wait() == 1
    assert "2 threads" in service.stderr()
    assert service.events("boot") == []
