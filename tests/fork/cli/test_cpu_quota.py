"""`--workers auto` in a cgroup of the kernel's own that has a CPU quota."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.waiting import wait_until

V1_CPU = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")

RUN = """
import os, sys
with open(sys.argv[1], "w") as procs:
    procs.write(str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "mxworker", *sys.argv[2:]])
"""


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """The file that takes a process into a cgroup with a quota of half a CPU."""
    is_v1 = (V1_CPU / "cpu.cfs_quota_us").exists()
    group = (V1_CPU if is_v1 else V2) / f"mxworker-test-{os.getpid()}"
    try:
        group.mkdir()
        if is_v1:
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no cgroup with a CPU quota can be made here: {error}")
    yield group / "cgroup.procs"
    wait_until(lambda: is_removed(group), 30, "the kernel to let go of processes that have ended")


def is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def test_auto_workers_follow_the_quota_and_say_so(half_a_cpu: Path) -> None:
    command = ["run", "no_such_app", "--broker-url=amqp://127.0.0.1:1/", "--log-format=text"]
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(half_a_cpu), *command], check=False, capture_output=True, text=True, timeout=60
    )
    assert "\nworkers     1 (auto: cgroup quota of 0.5 CPU)\n" in ended.stderr
    assert ended.returncode == 3
