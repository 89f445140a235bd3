"""What the service manager hears about made-up conditions, on a real datagram socket."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mxworker.errors import InvariantError
from mxworker.master.notify import EXTENSION_NS, Condition, Notifier, Phase
from tests.fork.conftest import seconds_between
from tests.harness.service_manager import ServiceManager

S = 1_000_000_000
EXTEND = f"EXTEND_TIMEOUT_USEC={EXTENSION_NS // 1000}"
STARTING = Condition(Phase.STARTING, wanted=2, consuming=0, alive=2)
READY = Condition(Phase.READY, wanted=2, consuming=2, alive=2)
STOPPING = Condition(Phase.STOPPING, wanted=2, consuming=2, alive=2, stop_deadline_ns=60 * S)


@pytest.fixture
def notifier(manager: ServiceManager) -> Notifier:
    return Notifier(manager.address)


# ---- what is said, and when


def test_phases_are_announced_once_each(manager: ServiceManager, notifier: Notifier) -> None:
    for condition in (STARTING, STARTING, READY, READY, STOPPING, STOPPING):
        notifier.tell(condition, 1 * S)
    said = [line for line in manager.listen() if line.endswith("=1")]
    assert said == ["READY=1", "STOPPING=1"]


def test_a_reload_carries_the_present_instant_and_ends_with_ready(manager: ServiceManager, notifier: Notifier) -> None:
    notifier.tell(READY, 1 * S)
    manager.listen()
    before_us = time.monotonic_ns() // 1000
    notifier.tell(replace(READY, phase=Phase.RELOADING), 2 * S)
    reloading, instant, *_ = manager.listen()
    assert reloading == "RELOADING=1"
    assert before_us <= int(instant.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.tell(READY, 3 * S)
    assert manager.listen()[0] == "READY=1"


def test_a_service_does_not_go_back_to_its_start(notifier: Notifier) -> None:
    notifier.tell(READY, 1 * S)
    with pytest.raises(InvariantError):
        notifier.tell(STARTING, 2 * S)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (STARTING, "starting: 0 of 2 workers consume"),
        (replace(READY, consuming=1), "1 of 2 workers consume"),
        (replace(READY, phase=Phase.RELOADING), "reloading: 2 of 2 workers consume"),
        (STOPPING, "draining: 2 workers left"),
        (replace(STOPPING, alive=1), "draining: 1 worker left"),
        (
            replace(READY, consuming=1, is_beyond_repair=True),
            "1 of 2 workers consume; one that was killed does not end",
        ),
    ],
)
def test_status_is_one_line_for_a_human(condition: Condition, status: str) -> None:
    assert condition.status == status


def test_status_is_sent_when_it_changes_and_at_most_once_a_second(manager: ServiceManager, notifier: Notifier) -> None:
    notifier.tell(READY, 10 * S)
    assert manager.listen() == ["READY=1", "STATUS=2 of 2 workers consume"]
    notifier.tell(READY, 20 * S)
    assert (manager.listen(), notifier.next_due_ns) == ([], None)
    notifier.tell(replace(READY, consuming=1), 20 * S)
    assert manager.listen() == ["STATUS=1 of 2 workers consume"]
    notifier.tell(replace(READY, consuming=0), 20 * S + 1)
    assert (manager.listen(), notifier.next_due_ns) == ([], 21 * S)
    notifier.tell(READY, 21 * S - 1)
    assert manager.listen() == []
    notifier.tell(READY, 21 * S)
    assert (manager.listen(), notifier.next_due_ns) == (["STATUS=2 of 2 workers consume"], None)


def test_a_status_held_back_is_due_before_the_watchdog(manager: ServiceManager) -> None:
    notifier = Notifier(manager.address, watchdog_ns=60 * S)
    notifier.tell(READY, 10 * S)
    assert notifier.next_due_ns == 40 * S
    notifier.tell(replace(READY, consuming=1), 10 * S + 1)
    assert notifier.next_due_ns == 11 * S


def test_time_is_extended_at_the_start_for_as_long_as_it_takes(manager: ServiceManager, notifier: Notifier) -> None:
    extended_at = []
    for second in range(1000):
        notifier.tell(STARTING, second * S)
        extended_at += [second for line in manager.listen() if line == EXTEND]
    assert extended_at == list(range(0, 1000, 5))


def test_time_is_extended_in_a_drain_up_to_its_deadline(manager: ServiceManager, notifier: Notifier) -> None:
    extended_at = []
    for second in range(100):
        notifier.tell(STOPPING, second * S)
        extended_at += [second for line in manager.listen() if line == EXTEND]
        assert notifier.next_due_ns is not None
        assert notifier.next_due_ns > second * S, "the loop would spin"
    assert extended_at == list(range(0, 60, 5))


def test_a_stop_extends_time_at_once(manager: ServiceManager, notifier: Notifier) -> None:
    notifier.tell(READY, 1 * S)
    manager.listen()
    notifier.tell(STOPPING, 2 * S)
    assert manager.listen() == ["STOPPING=1", "STATUS=draining: 2 workers left", EXTEND]


def test_no_time_is_extended_while_all_is_well(manager: ServiceManager, notifier: Notifier) -> None:
    for second in range(100):
        notifier.tell(READY, second * S)
        assert EXTEND not in manager.listen()


@pytest.mark.parametrize("condition", [READY, replace(READY, phase=Phase.RELOADING), STOPPING])
def test_watchdog_is_fed_at_half_its_time_in_every_phase(manager: ServiceManager, condition: Condition) -> None:
    notifier = Notifier(manager.address, watchdog_ns=4 * S)
    fed_ns = []
    for tenth in range(200):
        notifier.tell(condition, tenth * S // 10)
        fed_ns += [tenth * S // 10 for line in manager.listen() if line == "WATCHDOG=1"]
        assert notifier.next_due_ns is not None
    assert fed_ns == [second * S for second in range(0, 20, 2)]


def test_nothing_keeps_systemd_patient_with_a_worker_beyond_repair(
    manager: ServiceManager, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(manager.address, watchdog_ns=4 * S)
    notifier.tell(READY, 0)
    assert "WATCHDOG=1" in manager.listen()
    for second in range(1, 50):
        notifier.tell(replace(READY, is_beyond_repair=True), second * S)
        assert not {"WATCHDOG=1", EXTEND} & set(manager.listen())
    for second in range(50, 60):
        notifier.tell(replace(STOPPING, is_beyond_repair=True), second * S)
        assert not {"WATCHDOG=1", EXTEND} & set(manager.listen())
    assert caplog.text.count("a worker that was killed does not end") == 1
    notifier.tell(replace(STOPPING, stop_deadline_ns=100 * S), 61 * S)
    assert {"WATCHDOG=1", EXTEND} <= set(manager.listen())


# ---- where it goes


def test_a_name_of_the_abstract_namespace_is_an_address() -> None:
    manager = ServiceManager(f"@mxworker-test-{os.getpid()}")
    Notifier(manager.address).tell(READY, 0)
    assert "READY=1" in manager.listen()
    manager.close()


def test_a_service_manager_that_was_away_is_told_a_second_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.tell(READY, 0)
    assert notifier.next_due_ns == 1 * S
    notifier.tell(READY, 1 * S)
    manager = ServiceManager(str(tmp_path / "notify"))
    notifier.tell(READY, 2 * S)
    assert manager.listen() == ["READY=1", "STATUS=2 of 2 workers consume"]
    assert notifier.next_due_ns is None
    assert caplog.text.count("cannot reach the service manager") == 1
    manager.close()


def test_a_service_manager_that_does_not_listen_stalls_nothing(manager: ServiceManager) -> None:
    notifier = Notifier(manager.address, watchdog_ns=2)
    began_ns = time.monotonic_ns()
    for instant in range(5_000):
        notifier.tell(READY, instant)
    assert seconds_between(began_ns) < 20.0
    manager.listen()
    notifier.tell(STOPPING, 10 * S)
    assert "STOPPING=1" in manager.listen()


# ---- the environment


def variables(**changed: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": "/run/s", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"} | changed


def test_nothing_of_the_service_manager_stays_in_the_environment() -> None:
    for socket_name in ("/run/s", ""):
        environment = variables(NOTIFY_SOCKET=socket_name)
        assert (Notifier.from_environment(environment) is None) == (socket_name == "")
        assert environment == {"A": "b"}


@pytest.mark.parametrize(
    ("changed", "is_on"),
    [({}, True), ({"WATCHDOG_PID": ""}, True), ({"WATCHDOG_PID": "1"}, False)]
    + [({"WATCHDOG_USEC": text}, False) for text in ("", "0", "-5", "x", "²")],
)
def test_watchdog_is_on_when_it_is_meant_for_this_process(
    manager: ServiceManager, changed: dict[str, str], is_on: bool
) -> None:
    notifier = Notifier.from_environment(variables(NOTIFY_SOCKET=manager.address, **changed))
    assert notifier is not None
    notifier.tell(READY, 0)
    assert ("WATCHDOG=1" in manager.listen()) == is_on
    assert notifier.next_due_ns == (2 * S if is_on else None)
