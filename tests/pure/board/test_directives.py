"""What the master wants of all workers, as they read it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.directives import ALONE_QUEUES, PAUSED_QUEUES, no_directives
from mxworker.board.page import Board

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=63)


def test_there_are_none_at_first() -> None:
    fresh = no_directives()
    assert (fresh.all_paused, fresh.paused_queues, fresh.log_level) == (False, (), None)
    assert not fresh.wants_paused("orders")


def test_paused_queue_is_wanted_paused_and_no_other() -> None:
    standing = no_directives()
    standing.pause("orders")
    assert (standing.wants_paused("orders"), standing.wants_paused("order")) == (True, False)
    standing.resume("orders")
    assert not standing.wants_paused("orders")


def test_pause_of_all_and_of_one_are_taken_back_apart() -> None:
    standing = no_directives()
    standing.pause("orders")
    standing.pause_all()
    assert standing.wants_paused("mails")
    standing.resume_all()
    assert (standing.wants_paused("orders"), standing.wants_paused("mails")) == (True, False)


def test_pausing_again_takes_no_second_entry() -> None:
    standing = no_directives()
    for _ in range(PAUSED_QUEUES + 1):
        standing.pause("orders")
    assert standing.paused_queues == ("orders",)


def test_more_than_64_queues_are_refused_until_one_is_resumed() -> None:
    standing = no_directives()
    for number in range(PAUSED_QUEUES):
        standing.pause(f"queue-{number}")
    with pytest.raises(ValueError, match="64 queues are paused"):
        standing.pause("one more")
    standing.resume("queue-7")
    standing.pause("one more")
    assert standing.wants_paused("one more")
    assert len(standing.paused_queues) == PAUSED_QUEUES


@pytest.mark.parametrize("name", ["", "q" * 256, "ü" * 128, "a\0b"], ids=["empty", "long", "long in bytes", "NUL"])
def test_what_no_queue_can_be_called_is_refused(name: str) -> None:
    standing = no_directives()
    with pytest.raises(ValueError, match="no name of a queue"):
        standing.pause(name)
    assert standing.paused_queues == ()


@given(st.lists(NAMES, unique=True, max_size=PAUSED_QUEUES), st.data())
def test_names_are_read_as_they_were_written(names: list[str], data: st.DataObject) -> None:
    standing = no_directives()
    for name in names:
        standing.pause(name)
    gone = data.draw(st.sets(st.sampled_from(names))) if names else set()
    for name in gone:
        standing.resume(name)
    assert set(standing.paused_queues) == set(names) - gone


def test_log_level_is_the_number_that_was_set() -> None:
    standing = no_directives()
    standing.set_log_level(logging.DEBUG)
    assert standing.log_level == logging.DEBUG


def test_boards_orders_do_not_overlap_its_slots() -> None:
    board = Board(2)
    board.directives.pause_all()
    for number in range(PAUSED_QUEUES):
        board.directives.pause(f"{number:0255}")
    assert all(value == 0 for slot in board.slots for value in slot.words)
    assert not any(bytes(slot.view).strip(b"\0") for slot in board.slots)
    board.slot(1).words[0] = 2**64 - 1
    assert len(board.directives.paused_queues) == PAUSED_QUEUES


def test_queues_run_alone_until_others_do_and_rest_by_the_way() -> None:
    standing = no_directives()
    standing.pause("paused")
    standing.run_alone(["a", "b"], rests=True)
    assert (set(standing.alone_queues), standing.alone_rests) == ({"a", "b"}, True)
    standing.run_alone(["b", "c"], rests=False)
    assert (set(standing.alone_queues), standing.alone_rests) == ({"b", "c"}, False)
    standing.run_alone([], rests=False)
    assert standing.alone_queues == ()
    assert standing.paused_queues == ("paused",)


def test_of_more_queues_than_there_is_room_for_some_run_alone() -> None:
    standing = no_directives()
    standing.run_alone([str(number) for number in range(ALONE_QUEUES + 5)], rests=False)
    assert len(standing.alone_queues) == ALONE_QUEUES
