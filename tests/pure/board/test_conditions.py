"""What a worker tells of its connections and queues on the board."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.conditions import LINKS, Condition, LinkState, QueueState
from mxworker.board.layout import CONDITION_BYTES, CONDITIONS, CONDITIONS_AT, HANDLER_NAMES
from mxworker.board.page import Board
from mxworker.system.printable import printable


def test_a_new_slot_tells_nothing() -> None:
    told = Board(1).slot(1).told
    assert told.links() == {}
    assert told.queue_conditions() == []


def test_conditions_are_read_as_they_were_written() -> None:
    slot = Board(1).slot(1)
    slot.name_handler(0, "order", "orders")
    slot.name_handler(1, "mail", "mails")
    slot.conditions.write(0, LinkState.UP, "RabbitMQ 4.0 at rabbit:5672", 5)
    slot.conditions.write(1, LinkState.BLOCKED, "low on disk", 7)
    slot.conditions.write(len(LINKS), QueueState.CONSUMED, "", 8)
    slot.conditions.write(len(LINKS) + 1, QueueState.WAITING, "406\n  do this", 9)
    assert slot.told.links() == {
        "consume": Condition(LinkState.UP, "RabbitMQ 4.0 at rabbit:5672", 5),
        "publish": Condition(LinkState.BLOCKED, "low on disk", 7),
    }
    assert slot.told.queue_conditions() == [
        ("orders", Condition(QueueState.CONSUMED, "", 8)),
        ("mails", Condition(QueueState.WAITING, "406  do this", 9)),
    ]


def test_a_handler_beyond_the_directory_has_no_condition() -> None:
    slot = Board(1).slot(1)
    slot.conditions.write(len(LINKS) + HANDLER_NAMES, QueueState.STOPPED, "why", 1)
    assert not any(slot.view[CONDITIONS_AT : CONDITIONS_AT + CONDITIONS * CONDITION_BYTES])
    assert slot.told.in_flight() == []


@given(st.text())
def test_a_long_reason_is_cut_within_its_entry(why: str) -> None:
    board = Board(1)
    slot = board.slot(1)
    slot.conditions.write(0, LinkState.DOWN, why * 100, 1)
    slot.conditions.write(1, LinkState.UP, "server", 2)
    found = slot.told.links()
    assert found["publish"].why == "server"
    assert len(found["consume"].why.encode()) <= 4 * CONDITION_BYTES


@given(st.binary(min_size=2 * CONDITION_BYTES, max_size=2 * CONDITION_BYTES))
def test_any_bytes_are_read(raw: bytes) -> None:
    slot = Board(1).slot(1)
    slot.view[CONDITIONS_AT : CONDITIONS_AT + len(raw)] = raw
    for condition in slot.told.links().values():
        assert printable(condition.why) == condition.why


def test_a_new_process_tells_anew() -> None:
    slot = Board(1).slot(1)
    slot.conditions.write(0, LinkState.DOWN, "why", 1)
    slot.prepare(1, is_on_trial=False, boot_deadline_ns=1)
    assert slot.told.links() == {}
