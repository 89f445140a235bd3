"""Stopping: drain, escalation, exit codes, and a stop at any moment."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.fork.conftest import Service, Start, seconds_between
from tests.harness.waiting import wait_until

NOISE_S = 12.0


def test_sigterm_drains_and_exits_0(start_ready: Start) -> None:
    service = start_ready("healthy")
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert len(service.events("left")) == 2
    assert service.survivors() == []


def test_workers_drain_in_parallel(start_ready: Start) -> None:
    service = start_ready("drains_slowly", "--workers", "4")
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert len(service.events("SIGTERM")) == 4
    log = service.stderr()
    assert log.rindex("RUNNING -> STOPPING") < log.index("STOPPING -> EMPTY"), "all are asked before one has ended"


def test_worker_that_leaves_right_after_a_reaping_is_reaped_at_once(start_ready: Start) -> None:
    service = start_ready("healthy,drains_slowly", "--leaves-after-reaping")
    asked_ns = time.monotonic_ns()
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert seconds_between(asked_ns) < 1.0 + NOISE_S


def test_repeated_sigterm_to_the_whole_group_exits_0(start_ready: Start, scale: Callable[[int, int], int]) -> None:
    for _ in range(scale(3, 30)):
        service = start_ready("drains_slowly")
        for _ in range(5):
            service.kill_group(signal.SIGTERM)
            time.sleep(0.05)  # as systemd and impatient operators do
        assert service.wait() == 0
        assert len(service.events("boot")) == 2
        assert service.survivors() == []


def test_sigterm_storm_around_the_end_does_not_change_the_exit_code(
    start_ready: Start, scale: Callable[[int, int], int]
) -> None:
    for _ in range(scale(5, 50)):
        service = start_ready("healthy")
        while service.process.poll() is None:
            service.kill_group(signal.SIGTERM)
            time.sleep(0.001)
        assert service.wait() == 0


def test_drain_longer_than_its_timeout_means_code_6_in_time(start_ready: Start) -> None:
    service = start_ready("endless_drain", "--drain", "1")
    asked_ns = time.monotonic_ns()
    service.kill(signal.SIGTERM)
    assert service.wait() == 6
    assert 2.0 <= seconds_between(asked_ns) < 3.0 + NOISE_S
    assert service.survivors() == []
    assert "STOPPING -> KILLING (drain timeout)" in service.stderr()


def test_worker_that_reports_its_own_drain_timeout_means_code_6(start_ready: Start) -> None:
    service = start_ready("drain_times_out,healthy")
    service.kill(signal.SIGTERM)
    assert service.wait() == 6


def test_drain_that_a_reload_began_and_that_ended_before_the_stop_does_not_count(start_ready: Start) -> None:
    """The master is held up, so that it learns of the end and of the stop at once."""
    service = start_ready("drain_times_out,healthy", "--workers", "1")
    old = service.worker(1)
    os.kill(old, signal.SIGSTOP)
    service.kill(signal.SIGHUP)
    wait_until(lambda: is_asked_to_stop(old), 10, "the order to drain")
    hold_up(service)
    os.kill(old, signal.SIGCONT)
    wait_until(lambda: status(old)["State"][0] == "Z", 10, "the end of the worker")
    service.kill(signal.SIGTERM, signal.SIGCONT)
    assert service.wait() == 0
    assert "exit code 6" in service.stderr()


def test_crash_before_the_stop_does_not_count(start_ready: Start) -> None:
    """The master is held up, so that it learns of the end and of the stop at once."""
    service = start_ready("healthy")
    killed = service.worker(1)
    hold_up(service)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: status(killed)["State"][0] == "Z", 10, "the end of the worker")
    service.kill(signal.SIGTERM, signal.SIGCONT)
    assert service.wait() == 0
    assert "SIGKILL" in service.stderr()
    assert len(service.events("left")) == 1


def hold_up(service: Service) -> None:
    """Stop the master while it sleeps, and not between two steps."""
    wait_until(lambda: status(service.pid)["State"][0] == "S", 10, "the master to sleep")
    service.kill(signal.SIGSTOP)
    wait_until(lambda: status(service.pid)["State"][0] == "T", 10, "the master to stand still")


def status(pid: int) -> dict[str, str]:
    """Return what proc_pid_status(5) says of a process that was not reaped yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_asked_to_stop(pid: int) -> bool:
    """Say whether a SIGTERM waits for a process that stands still."""
    return bool(int(status(pid)["ShdPnd"], 16) & 1 << signal.SIGTERM - 1)


def test_first_sigint_drains(start_ready: Start) -> None:
    service = start_ready("healthy")
    service.kill_group(signal.SIGINT)
    assert service.wait() == 0
    assert len(service.events("left")) == 2


def test_second_sigint_cuts_the_drain_short_and_means_130(start_ready: Start) -> None:
    service = start_ready("endless_drain", "--drain", "60")
    service.kill_group(signal.SIGINT)
    service.wait_for("SIGTERM", count=2)
    asked_ns = time.monotonic_ns()
    service.kill_group(signal.SIGINT)
    assert service.wait() == 130
    assert seconds_between(asked_ns) < NOISE_S
    assert len(service.events("SIGRTMAX")) == 2


def test_third_sigint_kills_and_means_130(start_ready: Start) -> None:
    service = start_ready("deaf", "--drain", "60")
    for what in ("SIGTERM", "SIGRTMAX"):
        service.kill(signal.SIGINT)
        service.wait_for(what, count=2)
    service.kill(signal.SIGINT)
    assert service.wait(NOISE_S) == 130
    assert service.survivors() == []


def test_sigquit_kills_at_once_and_means_130(start_ready: Start) -> None:
    service = start_ready("deaf", "--drain", "60")
    service.kill(signal.SIGQUIT)
    assert service.wait(NOISE_S) == 130
    assert service.survivors() == []


def test_sigterm_after_sigterm_never_escalates(start_ready: Start) -> None:
    service = start_ready("drains_slowly")
    for _ in range(5):
        service.kill(signal.SIGTERM)
        time.sleep(0.05)
    assert service.wait() == 0
    assert len(service.events("SIGTERM")) == 2
    assert service.events("SIGRTMAX") == []


def test_stop_while_a_worker_boots_is_quick(start: Start) -> None:
    """A worker without a handler for SIGTERM yet has nothing to drain: the default action ends it, cleanly."""
    service = start("hangs_in_boot", "--boot", "60", "--drain", "1")
    service.wait_for("boot", count=2)
    service.kill(signal.SIGTERM)
    assert service.wait(3 + NOISE_S) in (0, 6)
    assert service.survivors() == []


def test_stop_while_a_slot_is_in_backoff_exits_0(start_ready: Start) -> None:
    service = start_ready("crashes_after_ready,healthy")
    service.wait_for("boot", slot=1, count=4)
    service.kill(signal.SIGTERM)
    assert service.wait() in (0, 1)  # 1: the crash came after the stop
    assert service.survivors() == []


def send_at_random(service: Service, rng: random.Random, span_s: float) -> list[signal.Signals]:
    """Send up to four signals at random moments, half of them to the whole group, and return them; one is a SIGTERM."""
    sent = [rng.choice((signal.SIGTERM, signal.SIGHUP)) for _ in range(rng.randint(1, 4))]
    started_at = time.monotonic()
    for signum, at_s in zip(sent, sorted(rng.uniform(0, span_s) for _ in sent), strict=True):
        time.sleep(max(0.0, started_at + at_s - time.monotonic()))  # the moments are what is tested
        rng.choice((service.kill, service.kill_group))(signum)
    if signal.SIGTERM not in sent:
        service.kill(signal.SIGTERM)
        sent.append(signal.SIGTERM)
    return sent


def test_signals_at_any_moment_from_exec_to_drain_end_in_bounds_as_documented_without_orphans(
    start: Start, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    """Before the master's handlers exist the default action ends it, and there is no worker yet; later, code 0."""
    started_ns = time.monotonic_ns()
    first = start("healthy")
    first.wait_for("announce")
    to_ready_s = seconds_between(started_ns)
    first.end()
    for _ in range(scale(30, 300)):
        behaviour = rng.choice(("healthy", "slow_boot", "drains_slowly"))
        service = start(behaviour, "--workers", "3", "--drain", "10")
        sent = send_at_random(service, rng, rng.choice((1.1, 3.0)) * to_ready_s)
        code = service.wait(12.0 + NOISE_S)
        is_by_default_action = -code in sent and not service.events()
        assert code == 0 or is_by_default_action, f"{behaviour}, {sent}: {code}\n{service.stderr()}"
        assert service.survivors() == [], f"{behaviour}, {sent}\n{service.stderr()}"


def test_frozen_worker_does_not_hold_up_a_stop(start_ready: Start) -> None:
    service = start_ready("healthy", "--drain", "1")
    os.kill(service.worker(1), signal.SIGSTOP)
    service.kill(signal.SIGTERM)
    assert service.wait(3.0 + NOISE_S) == 6
    assert service.survivors() == []
