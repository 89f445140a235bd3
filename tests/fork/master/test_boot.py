"""Workers that cannot start: how often they are tried, and with what the service ends."""

import signal

import pytest

from tests.fork.conftest import Start
from tests.harness.waiting import wait_until


@pytest.mark.parametrize("code", [2, 3, 4])
def test_all_workers_refusing_alike_end_the_service_with_their_code_and_one_text(start: Start, code: int) -> None:
    service = start(f"refuses_{code}", "--workers", "3")
    assert service.wait() == code
    assert service.stderr().count(f"Error: cannot start, {code}.\n  Try:  something else\n") == 1
    assert len(service.events("boot")) == 3


def test_workers_refusing_differently_mean_code_5_and_each_text_once(start: Start) -> None:
    service = start("refuses_2,refuses_3")
    assert service.wait() == 5
    assert service.stderr().count("Error: cannot start, 2.") == 1
    assert service.stderr().count("Error: cannot start, 3.") == 1
    assert "Error: no worker ever became ready" in service.stderr()


def test_workers_crashing_in_boot_mean_code_5_after_three_forks_each(start: Start) -> None:
    service = start("raises")
    assert service.wait(30) == 5
    assert len(service.events("boot")) == 6
    assert service.stderr().count("RuntimeError: made-up failure") == 6
    assert "Error: no worker ever became ready" in service.stderr()


def test_system_exit_of_a_worker_is_its_exit_code(start: Start) -> None:
    service = start("exits_by_system_exit")
    assert service.wait() == 3


@pytest.mark.parametrize(
    ("end", "quarantine_after"),
    [("segfaults", 3), ("segfaults", 0), ("is_killed", 5), ("hangs", 3), ("leaves_as_if_refused", 3)],
)
def test_death_with_a_message_in_flight_is_no_failed_start(start: Start, end: str, quarantine_after: int) -> None:
    """With `quarantine_after` 0 too: no message is put aside then, but the worker has started all the same."""
    heartbeat_s = 1 if end == "hangs" else 30
    service = start(
        f"{end}_at_start", "--workers=1", f"--quarantine-after={quarantine_after}", f"--heartbeat={heartbeat_s}"
    )
    service.wait_for("announce")
    assert len(service.events("boot")) == 5
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


def test_worker_hanging_in_boot_is_killed_and_tried_again(start: Start) -> None:
    service = start("hangs_in_boot", "--boot", "2", "--workers", "1")
    assert service.wait(30) == 5
    assert len(service.events("boot")) == 3
    assert 1 <= len(service.events("dump")) <= 3  # one that stands still is killed before it can
    assert service.stderr().count("STARTING -> ABORTING (hang)") == 3


def test_slow_boot_within_its_timeout_is_left_alone_whatever_the_heartbeat_timeout(start_ready: Start) -> None:
    service = start_ready("slow_boot", "--heartbeat", "0.3")
    assert "STARTING -> ABORTING" not in service.stderr()


def test_refusing_slot_is_tried_again_once_its_sibling_is_ready(start: Start) -> None:
    service = start("refuses_3,slow_boot", "--slow-s", "3")
    service.wait_for("boot", slot=1, count=2)
    assert "slot 1 EMPTY -> BACKOFF (retry)" in service.stderr()
    assert service.stderr().count("Error: cannot start, 3.") == 1
    assert len(service.events("boot", slot=2)) == 1


def test_service_is_announced_once_with_a_note_when_every_slot_is_ready(start_ready: Start) -> None:
    service = start_ready("slow_boot,healthy")
    (announced,) = service.events("announce")
    assert announced.what.endswith(" consumes orders")
    assert float(announced.what.split()[1]) > 0.5
    assert announced.at_ns > max(event.at_ns for event in service.events("ready"))
    wait_until(lambda: "slot 1 STARTING -> RUNNING (beat)" in service.stderr(), 5.0, "the running first slot")


def test_service_is_announced_without_a_slot_that_fails_again_and_again(start: Start) -> None:
    service = start("refuses_3,slow_boot")
    (announced,) = service.wait_for("announce", within_s=30)
    assert len([event for event in service.events("boot", slot=1) if event.at_ns < announced.at_ns]) >= 3
    assert service.process.poll() is None
