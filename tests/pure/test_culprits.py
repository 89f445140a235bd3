"""Which queue is given up when the broker ends the whole connection: the one that did it twice, and no other."""

from __future__ import annotations

import pytest

from mxworker.amqp.consuming.faulty_queues import GIVEN_UP_S, Culprits

NAMED = (540, "NOT_IMPLEMENTED - basic.nack not supported by stream queues queue 'a' in vhost '/'")
UNNAMED = (541, "INTERNAL_ERROR")


def blamed(culprits: Culprits, connection: object, reason: tuple[int, str], now: float, queues: str = "abc") -> str:
    """Return which queues are given up for the end of a connection."""
    return "".join(queue for queue in queues if culprits.blame(queue, connection, reason, now))


def test_queue_that_is_named_twice_within_a_minute_is_given_up_alone() -> None:
    culprits = Culprits()
    assert blamed(culprits, 1, NAMED, 10) == ""
    assert blamed(culprits, 2, NAMED, 69) == "a"


def test_two_errors_further_apart_are_two_accidents() -> None:
    culprits = Culprits()
    assert blamed(culprits, 1, NAMED, 10) == ""
    assert blamed(culprits, 2, NAMED, 71) == ""
    assert blamed(culprits, 3, NAMED, 80) == "a"


def test_one_error_is_enough_after_it_was_given_up() -> None:
    culprits = Culprits()
    blamed(culprits, 1, NAMED, 10)
    assert blamed(culprits, 2, NAMED, 20) == "a"
    assert blamed(culprits, 3, NAMED, 20 + GIVEN_UP_S + 10) == "a"
    assert blamed(culprits, 4, NAMED, 20 + 3 * GIVEN_UP_S) == ""


@pytest.mark.parametrize("beside", [".dlq", ".quarantine", ".retry.1000"])
def test_error_about_a_queue_beside_it_is_its_own(beside: str) -> None:
    culprits = Culprits()
    reason = (540, f"NOT_IMPLEMENTED - queue 'a{beside}' in vhost '/'")
    assert [blamed(culprits, connection, reason, 1) for connection in (1, 2)] == ["", "a"]
    other = (540, "NOT_IMPLEMENTED - queue 'ab' in vhost '/'")
    assert [blamed(culprits, connection, other, 1) for connection in (3, 4)] == ["", ""]


def test_queue_whose_request_was_under_way_is_to_blame_when_none_is_named() -> None:
    culprits = Culprits()
    for connection in (1, 2):
        for queue in "abc":
            culprits.begin(queue, connection)
        culprits.succeeded("a")
        culprits.succeeded("c")
        assert blamed(culprits, connection, UNNAMED, connection) == ("" if connection == 1 else "b")


async def test_queues_take_turns_when_several_may_have_done_it() -> None:
    culprits = Culprits()
    for queue in "abc":
        culprits.begin(queue, 1)
    assert blamed(culprits, 1, UNNAMED, 10) == ""
    async with culprits.turn(11):
        assert culprits._turn.locked()
    async with culprits.turn(71):
        assert not culprits._turn.locked()


def test_nobody_is_to_blame_for_a_connection_that_an_operator_closed_or_that_nobody_used() -> None:
    culprits = Culprits()
    culprits.begin("a", 1)
    for connection in (1, 2, 3):
        assert blamed(culprits, connection, (320, "CONNECTION_FORCED - queue 'a' in vhost '/'"), 1) == ""
    for connection in (4, 5, 6):
        assert blamed(culprits, connection, UNNAMED, 1) == ""


def test_who_asks_first_does_not_change_who_is_to_blame() -> None:
    culprits = Culprits()
    for connection in (1, 2):
        culprits.begin("a", connection)
        culprits.begin("b", connection)
        assert not culprits.blame("a", connection, UNNAMED, 1)
        culprits.succeeded("a")
        assert not culprits.blame("b", connection, UNNAMED, 1)
