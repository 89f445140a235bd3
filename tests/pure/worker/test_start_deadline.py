"""A first start has the time of --connect-wait without progress, and each queue that is declared is progress."""

from __future__ import annotations

from mxworker.worker.start_deadline import TELL_EVERY_S, StartDeadline

ANSWER_S = 30.0


def look(
    start: StartDeadline,
    now: float,
    *,
    was_connected: bool = False,
    is_connected: bool = True,
    consumed: int = 0,
    unanswered: int = 0,
) -> bool:
    return start.look(
        was_connected=is_connected or consumed > 0 or was_connected,
        is_connected=is_connected,
        consumed=consumed,
        unanswered=unanswered,
        now=now,
    )


def test_without_a_connection_it_ends_with_the_wait() -> None:
    start = StartDeadline(5, ANSWER_S, 100)
    assert not look(start, 104.9, is_connected=False, unanswered=3)
    assert look(start, 105, is_connected=False, unanswered=3)


def test_first_connection_is_progress_and_no_other_one() -> None:
    start = StartDeadline(5, ANSWER_S, 100)
    assert not look(start, 104)
    assert not look(start, 106, is_connected=False, was_connected=True)
    assert not look(start, 108)
    assert look(start, 109), "five seconds after the first one"


def test_each_queue_is_progress() -> None:
    start = StartDeadline(5, ANSWER_S, 100)
    for second in range(60):
        assert not look(start, 104 + 4 * second, consumed=second, unanswered=60 - second)
    assert not look(start, 104 + 4 * 59 + 4.9, consumed=59)
    assert look(start, 104 + 4 * 59 + 5, consumed=59)


def test_queue_that_is_consumed_again_is_none() -> None:
    start = StartDeadline(5, ANSWER_S, 100)
    assert not look(start, 101, consumed=3)
    assert not look(start, 105, consumed=2)
    assert look(start, 106, consumed=3)


def test_short_wait_does_not_cut_off_an_answer() -> None:
    start = StartDeadline(1, ANSWER_S, 100)
    assert not look(start, 100.5, unanswered=1)
    assert not look(start, 100.5 + ANSWER_S, unanswered=1), "now it says itself that there is no answer"
    assert look(start, 100.5 + ANSWER_S, unanswered=0)
    assert look(start, 100.5 + ANSWER_S + 1, unanswered=1), "those behind it get no time of their own"


def test_it_wakes_for_its_end_and_for_what_is_to_be_told() -> None:
    start = StartDeadline(60, ANSWER_S, 100)
    assert start.wakes_at(100, 1) == 100 + TELL_EVERY_S
    assert not start.has_to_tell(104.9)
    assert start.has_to_tell(105)
    assert not start.has_to_tell(105)
    assert start.wakes_at(105, 1) == 110
    assert StartDeadline(2, ANSWER_S, 100).wakes_at(100, 1) == 102
    assert StartDeadline(0.1, ANSWER_S, 100).wakes_at(100, 1) == 101
