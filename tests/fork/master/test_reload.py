"""Reload and scale by signal, with made-up workers: what a replacement costs, and what comes between."""

import os
import signal

import pytest

from tests.fork.conftest import Service, Start
from tests.harness.waiting import wait_until

STORM = 20


def rolled(service: Service, generation: int, within_s: float = 10.0) -> None:
    """Wait until all workers are of a generation."""
    text = f"reload: all workers are of generation {generation}"
    wait_until(lambda: text in service.stderr(), within_s, f"{text!r} in\n{service.stderr()}")


def logged(service: Service, text: str, times: int = 1) -> None:
    """Wait until the log says something, so many times."""
    wait_until(lambda: service.stderr().count(text) >= times, 10.0, f"{times} x {text!r} in\n{service.stderr()}")


def stop(service: Service) -> None:
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert service.survivors() == []


def consuming_at_each_event(service: Service, ignoring: int) -> list[int]:
    """Return how many workers were ready and not asked to stop after each event beyond the first `ignoring` ones."""
    consuming: set[int] = set()
    counts = []
    for event in service.events():
        if event.what == "ready":
            consuming.add(event.pid)
        elif event.what == "SIGTERM":
            consuming.discard(event.pid)
        counts.append(len(consuming))
    return counts[ignoring:]


@pytest.mark.parametrize("to_group", [False, True], ids=["master", "group"])
def test_reload_replaces_each_worker_by_one_that_is_ready_first(start_ready: Start, to_group: bool) -> None:
    service = start_ready("healthy", "--workers", "3")
    before, so_far = {service.worker(slot) for slot in (1, 2, 3)}, len(service.events())
    if to_group:
        service.kill_group(signal.SIGHUP)
    else:
        service.kill(signal.SIGHUP)
    rolled(service, 2)
    assert {event.pid for event in service.events("left")} == before
    assert len(service.events("boot")) == 6
    assert min(consuming_at_each_event(service, so_far)) >= 3
    stop(service)


def test_generation_that_cannot_start_is_told_with_its_note_at_each_reload(start: Start) -> None:
    service = start("first_healthy_then_refuses_3", "--workers", "2")
    service.wait_for("announce")
    for reload in range(1, 4):
        service.kill(signal.SIGHUP)
        logged(service, f"reload refused: generation {reload + 1} does not serve: it ends with exit code 3")
        logged(service, "Error: cannot start, 3.\n  Try:  something else\n", reload)
    assert len(service.events("boot")) == 2 + 3
    assert service.events("SIG") == []
    stop(service)


def test_storm_of_reloads_is_one(start_ready: Start) -> None:
    service = start_ready("healthy")
    for _ in range(STORM):
        service.kill(signal.SIGHUP)
    service.wait_for("left", count=2)
    wait_until(lambda: "reload: all workers" in service.stderr(), 10.0, "the end of the roll")
    last = service.stderr().count("reload: generation")
    rolled(service, 1 + last)
    assert len(service.events("boot")) <= 2 + 2 + last  # one for each worker; each HUP may dismiss one on trial
    stop(service)


@pytest.mark.parametrize(
    "workers", [pytest.param(3, id="one of the old code"), pytest.param(2, id="a replacement that is not ready yet")]
)
def test_worker_that_is_killed_during_a_reload_comes_back_with_the_new_code(start_ready: Start, workers: int) -> None:
    """Slot 3 is the last one of three old workers, and with two of them the first one of the replacements."""
    service = start_ready("slow_boot", "--workers", str(workers))
    service.kill(signal.SIGHUP)
    service.wait_for("boot", slot=workers + 1)
    os.kill(service.worker(3), signal.SIGKILL)
    rolled(service, 2)
    assert len(service.events("boot")) == workers + 3
    stop(service)


def test_reload_goes_on_beside_a_slot_that_crashes_again_and_again(start_ready: Start) -> None:
    service = start_ready("healthy,crashes_when_respawned")
    os.kill(service.worker(2), signal.SIGKILL)
    service.wait_for("boot", slot=2, count=3)
    old = service.worker(1)
    service.kill(signal.SIGHUP)
    wait_until(lambda: old in {event.pid for event in service.events("left")}, 15.0, service.stderr())
    service.kill(signal.SIGTERM)
    assert service.wait() in (0, 1)
    assert service.survivors() == []


def test_stop_during_a_reload_ends_all_of_them(start_ready: Start) -> None:
    service = start_ready("slow_boot", "--workers", "3")
    service.kill(signal.SIGHUP)
    service.wait_for("boot", slot=4)
    stop(service)
    assert 4 <= len(service.events("boot")) <= 6  # the reload may go on for a while before the stop comes


def test_reload_during_a_stop_starts_nothing(start_ready: Start) -> None:
    service = start_ready("drains_slowly")
    service.kill(signal.SIGTERM)
    service.wait_for("SIGTERM", count=2)
    service.kill(signal.SIGHUP)
    assert service.wait() == 0
    assert len(service.events("boot")) == 2


def test_worker_that_wishes_it_is_replaced_by_one_that_is_ready_first(start_ready: Start) -> None:
    service = start_ready("wishes_once,healthy")
    (relieved,) = service.wait_for("left", slot=1)
    (ready,) = service.events("ready", slot=3)
    assert ready.at_ns < relieved.at_ns
    assert "RUNNING -> STOPPING (recycle)" in service.stderr()
    stop(service)


def test_ttin_and_ttou_start_and_drain_a_worker(start_ready: Start) -> None:
    service = start_ready("healthy", "--workers", "1")
    service.kill(signal.SIGTTIN)
    service.wait_for("ready", slot=2)
    service.kill(signal.SIGTTOU)
    service.wait_for("left", slot=2)
    logged(service, "slot 2 STOPPING -> EMPTY (scale)")
    service.kill(signal.SIGTTOU)
    logged(service, "no change: there can be from 1 to 512 workers, not 0")
    assert service.events("SIG", slot=1) == []
    stop(service)
