"""Which worker does what one of them shall do for all, such as to ask the broker about the queues.

It is the one in the lowest slot of those that consume all queues, or if there are none, of those that consume any. A
worker whose heartbeat is late does not count. All workers read the same board, so they agree but for a moment; then two
of them do it, or none, which must do no harm.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState
from mxworker.board.slot import BoardSlot

_RANKS = {WorkerState.READY: 0, WorkerState.DEGRADED: 1}


def has_turn(slot: BoardSlot, used: Iterable[BoardSlot], now_ns: int) -> bool:
    """Whether the worker in `slot` is the one; `used` are all slots that ever had a worker."""
    ranked = [
        (rank, each.number)
        for each in used
        if each.deadline_ns > now_ns and each.words[Word.PID] and (rank := _RANKS.get(each.told.state)) is not None
    ]
    return bool(ranked) and min(ranked)[1] == slot.number
