"""The inquest into the death of a worker: what it could still say, and which messages may have killed it.

Knows the board, and nothing about how a worker was forked or will be replaced.
"""

from __future__ import annotations

import logging
import time

from mxworker.board import Board, BoardSlot
from mxworker.lifecycle import Reason, WorkerState
from mxworker.master.plan import Exit
from mxworker.stacks import readable
from mxworker.suspects import Death

_LOG = logging.getLogger("mxworker.master")

_LEAVING = frozenset({WorkerState.DRAINING, WorkerState.STOPPED})


class Inquest:
    """Enters into the board what dead workers had started."""

    def __init__(self, board: Board, quarantine_after: int) -> None:
        """With `quarantine_after` 0 no message is ever suspect."""
        self._board = board
        self._is_on = quarantine_after > 0

    def hold(self, ended: Exit, peak_rss_bytes: int, stack: str) -> None:
        """Suspect what the worker had started, if nobody had asked for its end. Call before its slot is used again."""
        slot = self._board.slot(ended.slot)
        if not self._is_on or not ended.is_unasked or _was_leaving(slot, ended):
            return
        keys = slot.keys_in_flight()
        if not keys:
            return
        is_hang = ended.reason is Reason.HANG
        death = Death(ended.status, peak_rss_bytes, ended.uptime_s, int(time.time()), readable(stack), is_hang)
        count, known = self._board.suspects.enter(keys, slot.alone_key, death)
        _LOG.warning(
            "worker %d (process %d) may have been killed by what it handled: %d %s, %d of them suspect before%s; "
            "each runs alone when it is delivered again",
            ended.slot,
            ended.pid,
            count,
            "message" if count == 1 else "messages",
            known,
            ", one of them alone" if slot.alone_key in keys else "",
            extra={"worker": ended.slot, "worker_pid": ended.pid, "suspects": count, "known_suspects": known},
        )


def _was_leaving(slot: BoardSlot, ended: Exit) -> bool:
    """Whether the worker was on its way out by itself, and left behind only what its drain had no time for."""
    return slot.state in _LEAVING and ended.reason is not Reason.HANG and ended.status >= 0
