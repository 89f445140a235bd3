"""Which queue is given up when the broker ends the whole connection: the one that did it twice, and no other."""

from __future__ import annotations

import pytest

from mxworker.amqp.consuming.faulty_queues import GIVEN_UP_S, FaultyQueues

NAMED = (540, "NOT_IMPLEMENTED - basic.nack not supported by stream queues queue 'a' in vhost '/'")
UNNAMED = (541, "INTERNAL_ERROR")


def given_up(
    faulty_queues: FaultyQueues, connection: object, reason: tuple[int, str], now: float, queues: str = "abc"
) -> str:
    """Return which queues are given up for the end of a connection."""
    return "".join(queue for queue in queues if faulty_queues.note_loss(queue, connection, reason, now))


def test_queue_that_is_named_twice_within_a_minute_is_given_up_alone() -> None:
    faulty_queues = FaultyQueues()
    assert given_up(faulty_queues, 1, NAMED, 10) == ""
    assert given_up(faulty_queues, 2, NAMED, 69) == "a"


def test_two_errors_further_apart_are_two_accidents() -> None:
    faulty_queues = FaultyQueues()
    assert given_up(faulty_queues, 1, NAMED, 10) == ""
    assert given_up(faulty_queues, 2, NAMED, 71) == ""
    assert given_up(faulty_queues, 3, NAMED, 80) == "a"


def test_one_error_is_enough_after_it_was_given_up() -> None:
    faulty_queues = FaultyQueues()
    given_up(faulty_queues, 1, NAMED, 10)
    assert given_up(faulty_queues, 2, NAMED, 20) == "a"
    assert given_up(faulty_queues, 3, NAMED, 20 + GIVEN_UP_S + 10) == "a"
    assert given_up(faulty_queues, 4, NAMED, 20 + 3 * GIVEN_UP_S) == ""


@pytest.mark.parametrize("beside", [".dlq", ".quarantine", ".retry.1000"])
def test_error_about_a_queue_beside_it_is_its_own(beside: str) -> None:
    faulty_queues = FaultyQueues()
    reason = (540, f"NOT_IMPLEMENTED - queue 'a{beside}' in vhost '/'")
    assert [given_up(faulty_queues, connection, reason, 1) for connection in (1, 2)] == ["", "a"]
    other = (540, "NOT_IMPLEMENTED - queue 'ab' in vhost '/'")
    assert [given_up(faulty_queues, connection, other, 1) for connection in (3, 4)] == ["", ""]


def test_queue_whose_request_was_under_way_is_cause_when_none_is_named() -> None:
    faulty_queues = FaultyQueues()
    for connection in (1, 2):
        for queue in "abc":
            faulty_queues.begin(queue, connection)
        faulty_queues.succeeded("a")
        faulty_queues.succeeded("c")
        assert given_up(faulty_queues, connection, UNNAMED, connection) == ("" if connection == 1 else "b")


async def test_queues_take_turns_when_several_may_have_done_it() -> None:
    faulty_queues = FaultyQueues()
    for queue in "abc":
        faulty_queues.begin(queue, 1)
    assert given_up(faulty_queues, 1, UNNAMED, 10) == ""
    async with faulty_queues.turn(11):
        assert faulty_queues._turn.locked()
    async with faulty_queues.turn(71):
        assert not faulty_queues._turn.locked()


def test_nobody_is_cause_for_a_connection_that_an_operator_closed_or_that_nobody_used() -> None:
    faulty_queues = FaultyQueues()
    faulty_queues.begin("a", 1)
    for connection in (1, 2, 3):
        assert given_up(faulty_queues, connection, (320, "CONNECTION_FORCED - queue 'a' in vhost '/'"), 1) == ""
    for connection in (4, 5, 6):
        assert given_up(faulty_queues, connection, UNNAMED, 1) == ""


def test_who_asks_first_does_not_change_who_is_cause() -> None:
    faulty_queues = FaultyQueues()
    for connection in (1, 2):
        faulty_queues.begin("a", connection)
        faulty_queues.begin("b", connection)
        assert not faulty_queues.note_loss("a", connection, UNNAMED, 1)
        faulty_queues.succeeded("a")
        assert not faulty_queues.note_loss("b", connection, UNNAMED, 1)
