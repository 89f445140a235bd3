"""The master as PID 1 of a pid namespace, as in a container: it inherits every orphan."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fork.conftest import Service, Start
from tests.harness.waiting import wait_until


@pytest.fixture(scope="module")
def namespace() -> tuple[str, ...]:
    """The command that makes its argument PID 1."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare(1) is missing; it is in the package util-linux")
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ("unshare", *user, "--pid", "--fork", "--mount-proc", "--kill-child")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no pid namespace can be made here: {tried.stderr.strip()}")
    return command


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_as_pid_1(start: Start, namespace: tuple[str, ...], *arguments: str) -> tuple[Service, int]:
    """Return a service that announced itself, and the pid that its master has outside of the namespace."""
    service = start(*arguments, prefix=namespace)
    service.wait_for("announce")
    (master,) = children(service.pid)
    return service, master


def test_a_thousand_orphans_are_reaped_and_never_counted_as_workers(
    start: Start, namespace: tuple[str, ...], scale: Callable[[int, int], int]
) -> None:
    orphans = scale(100, 1000)
    service, master = start_as_pid_1(start, namespace, "makes_orphans", "--orphans", str(orphans // 2))
    service.wait_for("orphans made", count=2, within_s=60.0)
    workers_and_the_living = 2 + 2
    wait_until(lambda: len(children(master)) == workers_and_the_living, 15.0, "the reaping of the orphans")
    assert service.process.poll() is None
    assert len(service.events("boot")) == 2
    assert " ended after " not in service.stderr()
    os.kill(master, signal.SIGTERM)
    assert service.wait() == 0
    assert len(service.events("left")) == 2
    service.wait_until_gone()


def test_a_dead_worker_is_replaced_among_orphans(start: Start, namespace: tuple[str, ...]) -> None:
    service, master = start_as_pid_1(start, namespace, "makes_orphans", "--orphans", "50")
    os.kill(children(master)[0], signal.SIGKILL)
    service.wait_for("boot", count=3)
    assert service.stderr().count(" ended after ") == 1
    os.kill(master, signal.SIGTERM)
    assert service.wait() == 0
