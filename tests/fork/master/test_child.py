"""What a worker inherits and what it must not."""

import os
import signal
from pathlib import Path

import pytest

from tests.fork.conftest import Start
from tests.harness.waiting import wait_until


def test_signal_right_after_the_fork_never_reaches_the_masters_pipe(start: Start) -> None:
    """Each child gets SIGTERM before it could reset anything: it dies of it, and the master counts a failed boot."""
    service = start("healthy", "--workers", "3", "--term-right-after-fork")
    assert service.wait(30) == 5
    assert "STOPPING" not in service.stderr()
    assert service.stderr().count(" s: SIGTERM") == 9


def test_child_has_the_standard_streams_the_files_of_its_slot_and_no_other_descriptor(start_ready: Start) -> None:
    service = start_ready("shows_fds", "--open-sockets")
    for slot in (1, 2):
        files = f"memfd:mxworker-stacks-{slot} memfd:mxworker-profile-{slot}"
        assert [event.what for event in service.events("fds", slot)] == [f"fds 0 1 2 {files}"]


def test_respawns_leave_no_descriptor_behind_in_the_master(start_ready: Start) -> None:
    service = start_ready("healthy")

    def descriptors() -> int:
        return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))

    before = descriptors()
    for generation in range(2, 7):
        os.kill(service.worker(1), signal.SIGKILL)
        service.wait_for(f"boot {generation}", slot=1)
    wait_until(lambda: descriptors() == before, 5.0, "as many descriptors as before")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_the_group_is_nothing_to_a_worker(start_ready: Start, signum: signal.Signals) -> None:
    service = start_ready("healthy")
    os.kill(service.worker(1), signum)
    os.kill(service.worker(1), signal.SIGUSR1)
    service.wait_for("dump", slot=1)
    assert len(service.events("boot")) == 2
    assert service.events("SIG") == []


def test_subprocess_of_a_worker_dies_of_sigterm_and_sigint(start_ready: Start) -> None:
    service = start_ready("spawns_grandchildren", "--workers", "1")
    service.wait_for("mask 0")
    assert [event.what for event in service.events("grandchild")] == ["grandchild -15", "grandchild -2"]


def test_master_shows_its_name_as_process_title(start_ready: Start) -> None:
    service = start_ready("healthy", "--name", "app:handlers")
    title = Path(f"/proc/{service.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert title == b"mxworker: master app:handlers"
