"""What a worker had started when it died is suspect, and what is known of its death is true."""

from __future__ import annotations

import signal

import pytest

from tests.fork.conftest import Service, Start

NOTHING = "hang False, alone False, stack False, rss True"
WITH_STACK = "hang False, alone False, stack True, rss True"


def suspects_of(service: Service) -> list[str]:
    """Return what the second process of the slot found."""
    service.wait_for("told")
    return [event.what for event in service.events("suspect")]


@pytest.mark.parametrize(
    ("behaviour", "facts"),
    [
        ("segfaults_holding_two", f"SIGSEGV, {WITH_STACK}"),
        ("leaves_without_a_word_holding_two", f"exit code 0, {NOTHING}"),
        ("is_killed_holding_two", f"SIGKILL, {NOTHING}"),
        ("hangs_holding_two", "SIGABRT, hang True, alone False, stack True, rss True"),
    ],
)
def test_worker_that_dies_unasked_makes_suspects_of_what_it_had_started(
    start: Start, behaviour: str, facts: str
) -> None:
    heartbeat_s = "1" if behaviour == "hangs_holding_two" else "30"
    service = start(behaviour, "--workers", "1", "--heartbeat", heartbeat_s)
    assert suspects_of(service) == [f"suspect 7: 1 kills, {facts}", f"suspect -8: 1 kills, {facts}"]
    assert service.stderr().count("may have been killed by what it handled: 2 messages, 0 of them suspect before") == 1


def test_what_ran_alone_is_told_from_what_was_stuck_beside_it(start: Start) -> None:
    service = start("segfaults_with_one_alone", "--workers", "1")
    kinds = {what.partition(":")[0]: "alone True" in what for what in suspects_of(service)}
    assert kinds == {"suspect 7": False, "suspect -8": True}


def test_what_a_drain_had_no_time_for_is_not_suspect(start: Start) -> None:
    service = start("drains_in_vain_holding_two", "--workers", "1")
    assert suspects_of(service) == []


def test_nothing_is_suspect_when_quarantine_is_off(start: Start) -> None:
    service = start("segfaults_holding_two", "--workers", "1", "--quarantine-after", "0")
    assert suspects_of(service) == []


def test_stack_of_a_crash_is_shown_once_although_the_next_worker_uses_the_same_file(start_ready: Start) -> None:
    service = start_ready("crashes_after_ready", "--workers", "1")
    service.wait_for("boot", count=4)
    service.kill(signal.SIGTERM)
    service.wait()
    crashes = service.stderr().count("Fatal Python error: Segmentation fault")
    assert crashes == service.stderr().count(" s: SIGSEGV") > 2


def test_one_worker_at_a_time_runs_something_alone_and_each_has_its_turn(start_ready: Start) -> None:
    service = start_ready("takes_turns", "--workers", "3")
    service.wait_for("alone to", count=30, within_s=30)
    for slot in (1, 2, 3):
        service.wait_for("alone to", slot=slot)
    service.kill(signal.SIGTERM)
    service.wait()
    spans = service.events("alone")
    assert all(event.what == ("alone from here", "alone to here")[place % 2] for place, event in enumerate(spans))
    assert all(first.pid == then.pid for first, then in zip(spans[::2], spans[1::2], strict=False))
    asked: dict[int, list[int]] = {}  # the turns of others since each worker asked
    for event in service.events("a"):
        if event.what == "asks":
            asked[event.pid] = []
        elif event.what == "alone from here":
            others = asked.pop(event.pid)
            assert len(set(others)) == len(others), service.events("a")
            for turns in asked.values():
                turns.append(event.slot)
