"""Workers in the same condition for the same reason are counted together."""

from __future__ import annotations

from mxworker.board.conditions import LINKS, LinkState, QueueState
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.board.reading import Told
from mxworker.control.status import LinkStatus, UnconsumedStatus, cause_of
from mxworker.master.conditions import links_of, unconsumed_by

S = 1_000_000_000
NOW_NS, NOW_UNIX_S = 100 * S, 5000.0
UP = "RabbitMQ 4.0 at rabbit:5672"


def workers(*conditions: tuple[LinkState, str, QueueState, str, int]) -> list[Told]:
    board = Board(len(conditions))
    for slot, (link, link_why, queue, why, since_s) in zip(board.slots, conditions, strict=True):
        slot.name_handler(0, "order", "orders")
        slot.conditions.write(0, link, link_why, since_s * S)
        slot.conditions.write(len(LINKS), queue, why, since_s * S)
    return [slot.told for slot in board.slots]


def test_workers_that_consume_have_one_link_and_no_unconsumed_queue() -> None:
    told = workers((LinkState.UP, UP, QueueState.CONSUMED, "", 40), (LinkState.UP, UP, QueueState.CONSUMED, "", 30))
    assert links_of(told, NOW_NS, NOW_UNIX_S) == (LinkStatus("consume", "up", UP, 2, 4930.0),)
    assert unconsumed_by(told, NOW_NS, NOW_UNIX_S) == ()


def test_the_same_reason_of_two_workers_is_told_once() -> None:
    told = workers(
        (LinkState.UP, UP, QueueState.WAITING, "406", 40),
        (LinkState.UP, UP, QueueState.WAITING, "406", 50),
        (LinkState.UP, UP, QueueState.STOPPED, "501", 50),
    )
    assert unconsumed_by(told, NOW_NS, NOW_UNIX_S) == (
        UnconsumedStatus("orders", "waiting", "406", 2, 4940.0),
        UnconsumedStatus("orders", "stopped", "501", 1, 4950.0),
    )


def test_a_worker_without_a_connection_has_no_other_reason() -> None:
    told = workers((LinkState.DOWN, "refused", QueueState.WAITING, "no connection", 40))
    assert unconsumed_by(told, NOW_NS, NOW_UNIX_S) == ()
    assert links_of(told, NOW_NS, NOW_UNIX_S) == (LinkStatus("consume", "down", "refused", 1, 4940.0),)


def test_a_worker_that_drains_is_not_meant_to_consume() -> None:
    board = Board(1)
    slot = board.slot(1)
    slot.name_handler(0, "order", "orders")
    slot.conditions.write(0, LinkState.UP, UP, 1)
    slot.conditions.write(len(LINKS), QueueState.WAITING, "cancelled", 1)
    assert len(unconsumed_by([slot.told], NOW_NS, NOW_UNIX_S)) == 1
    slot.write_state(WorkerState.DRAINING)
    assert unconsumed_by([slot.told], NOW_NS, NOW_UNIX_S) == ()


def test_a_beginning_that_cannot_be_true_counts_as_now() -> None:
    told = workers(
        (LinkState.UP, UP, QueueState.PAUSED, "operator", 0), (LinkState.UP, UP, QueueState.STOPPED, "", 200)
    )
    assert {queue.since_unix_s for queue in unconsumed_by(told, NOW_NS, NOW_UNIX_S)} == {NOW_UNIX_S}


def test_a_state_that_does_not_exist_is_not_shown() -> None:
    told = workers((LinkState.UP, UP, QueueState.CONSUMED, "", 40))
    board = Board(1)
    board.slot(1).name_handler(0, "order", "orders")
    board.slot(1).conditions.write(0, 200, "?", 1)
    board.slot(1).conditions.write(len(LINKS), 200, "?", 1)
    told.append(board.slot(1).told)
    assert len(links_of(told, NOW_NS, NOW_UNIX_S)) == 1
    assert unconsumed_by(told, NOW_NS, NOW_UNIX_S) == ()


def test_a_lost_broker_is_the_cause_before_any_queue() -> None:
    down = LinkStatus("consume", "down", "connection refused", 1, 0)
    refused = UnconsumedStatus("orders", "waiting", "406", 3, 0)
    paused = UnconsumedStatus("mails", "paused", "operator", 4, 0)
    assert cause_of([down], [refused]) == "connection refused"
    assert cause_of([LinkStatus("consume", "up", UP, 4, 0)], [paused, refused]) == "406"
    assert cause_of([LinkStatus("publish", "down", "x", 4, 0)], [paused]) == ""
