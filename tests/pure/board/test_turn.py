"""Which worker does what one of them does for all."""

from __future__ import annotations

import pytest

from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.board.turn import has_turn

NOW_NS = 1_000


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ("RRR", 1),
        ("CRR", 2),
        ("DRR", 2),
        ("DDC", 1),
        ("CDD", 2),
        ("XRR", 2),
        ("LRR", 2),
        ("LLD", 3),
        ("CCC", None),
        ("LXC", None),
    ],
)
def test_lowest_slot_that_consumes_all_or_else_any_has_the_turn(states: str, chosen: int | None) -> None:
    board = Board(4)
    shown = {
        "R": WorkerState.READY,
        "D": WorkerState.DEGRADED,
        "C": WorkerState.CONNECTING,
        "X": WorkerState.READY,
        "L": WorkerState.READY,
    }
    for number, state in enumerate(states, 1):
        board.checked(number).prepare(1, False, NOW_NS if state == "L" else NOW_NS + 1)  # L: its heartbeat is late
        slot = board.slot(number)
        slot.words[Word.PID] = 0 if state == "X" else 100 + number
        slot.write_state(shown[state])
    turns = [number for number in (1, 2, 3) if has_turn(board.slot(number), board.used, NOW_NS)]
    assert turns == ([] if chosen is None else [chosen])
