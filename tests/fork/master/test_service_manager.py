"""A real master under a service manager: what it tells about workers that start, drain, hang and cannot be ended."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest

from mxworker.master.fleet import BEYOND_REPAIR_NS
from mxworker.master.notify import EXTENSION_NS
from tests.fork.conftest import Start
from tests.harness.service_manager import ServiceManager
from tests.harness.waiting import wait_until

S = 1_000_000_000
EXTEND = f"EXTEND_TIMEOUT_USEC={EXTENSION_NS // 1000}"
PTRACE_SEIZE = 0x4206  # linux/ptrace.h


@pytest.fixture
def under(manager: ServiceManager, monkeypatch: pytest.MonkeyPatch) -> ServiceManager:
    """The manager, with services that are started from now on under it, and under its watchdog of one second."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    return manager


def test_a_service_is_ready_when_its_workers_are_and_stops_with_its_drain(under: ServiceManager, start: Start) -> None:
    service = start("slow_boot,drains_slowly", "--slow-s", "3")
    ready_ns = under.wait_for("READY=1")
    assert ready_ns > max(event.at_ns for event in service.wait_for("ready", count=2))
    under.wait_for("STATUS=2 of 2 workers consume")
    service.kill(signal.SIGTERM)
    stopping_ns = under.wait_for("STOPPING=1")
    assert service.process.poll() is None
    assert service.wait() == 0
    assert EXTEND in [line for at_ns, line in under.heard if at_ns >= stopping_ns]


def test_workers_and_what_they_start_do_not_find_the_service_manager(under: ServiceManager, start_ready: Start) -> None:
    service = start_ready("shows_environment")
    assert [event.what for event in service.events("environment")] == ["environment []"] * 2


def test_a_hang_that_is_repaired_does_not_keep_the_watchdog_from_its_food(under: ServiceManager, start: Start) -> None:
    service = start("blocked,healthy", "--heartbeat", "1.0")

    def is_fed_after_the_repair() -> bool:
        fed_ns, ready = under.times("WATCHDOG=1"), service.events("ready", slot=1)
        return len(ready) >= 2 and fed_ns[-1] > ready[1].at_ns

    wait_until(is_fed_after_the_repair, 15.0, "the repair, and food after it")
    assert "RUNNING -> ABORTING (hang)" in service.stderr()
    assert max(later - sooner for sooner, later in pairwise(under.times("WATCHDOG=1"))) < 1 * S


@pytest.fixture
def seize() -> Iterator[Callable[[int], None]]:
    """Become the tracer of a process: the kernel shows its end to nobody else before we have looked (ptrace(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    seized = []

    def begin(pid: int) -> None:
        if libc.ptrace(PTRACE_SEIZE, pid, None, None) != 0:
            pytest.skip(f"processes cannot be traced here: {os.strerror(ctypes.get_errno())}")
        seized.append(pid)

    yield begin
    for pid in seized:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_watchdog_starves_when_a_worker_hangs_beyond_repair(
    under: ServiceManager, start_ready: Start, seize: Callable[[int], None]
) -> None:
    service = start_ready("blocked,healthy", "--heartbeat", "5.0")
    victim = service.worker(1)
    seize(victim)
    alive_ns = 0  # the last time at which it was not

    def is_killed() -> bool:
        nonlocal alive_ns
        looked_ns = time.monotonic_ns()
        if "ABORTING -> KILLING" in service.stderr():
            return True
        alive_ns = looked_ns
        return False

    wait_until(is_killed, 10.0, "the kill of the worker")
    starved = "STATUS=1 of 2 workers consume; one that was killed does not end"
    starved_ns = under.wait_for(starved, BEYOND_REPAIR_NS / S + 5)
    wait_until(lambda: time.monotonic_ns() > starved_ns + 2 * S, 5.0, "twice the time of the watchdog")
    last_fed_ns = under.times("WATCHDOG=1")[-1]
    assert alive_ns + BEYOND_REPAIR_NS - S < last_fed_ns < starved_ns + S // 10
    os.waitpid(victim, 0)
    wait_until(lambda: under.times("WATCHDOG=1")[-1] > last_fed_ns, 5.0, "food after the worker's end")
    service.wait_for("ready", slot=1, count=2)
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
