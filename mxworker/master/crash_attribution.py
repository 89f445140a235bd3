"""What the death of a worker is attributed to: the messages and queues that may have killed it.

This module knows the board, and nothing about how a worker was forked or will be replaced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import NamedTuple

from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.board.reading import Told
from mxworker.board.suspects import Death
from mxworker.master.deadly_queues import DeadlyQueues
from mxworker.master.plan import Cause, Exit
from mxworker.master.slot_states import Reason
from mxworker.system.log_events import log_event
from mxworker.system.stacks import readable

_LOG = logging.getLogger("mxworker.master")

_TRIED = (
    "three workers died within a minute, each with messages of queue %s in flight: its messages run alone for a while, "
    "to see whether they are what kills"
)
_DEADLY = (
    "messages of queue %s kill workers: all its messages run alone, in one worker at a time and with rests, until none "
    "has killed for a while; other queues go on"
)

_LEAVING = frozenset({WorkerState.DRAINING, WorkerState.STOPPED})


class Change(NamedTuple):
    """What a look has changed: whether the directives changed, and whether a queue that kills was found."""

    has_orders: bool
    is_found: bool


class CrashAttribution:
    """Enters the messages that dead workers had started into the board's table of suspects."""

    def __init__(self, board: Board, quarantine_after: int) -> None:
        """With `quarantine_after` 0 no message is ever suspect."""
        self._board = board
        self._is_on = quarantine_after > 0
        self._queues = DeadlyQueues()
        self._told: frozenset[str] = frozenset()
        self._ordered: frozenset[str] = frozenset()

    def cause_of(self, told: Told, status: int) -> Cause:
        """Return what may have ended a worker with `status`, by what it had told. Call before the slot is reused."""
        if told.alone_queue in self._queues.to_run_alone:
            return Cause.DEADLY_QUEUE
        return Cause.MESSAGES if told.in_flight_count and not _was_leaving(told, status) else Cause.UNKNOWN

    def look(self, ready: Collection[int], now_ns: int) -> Change:
        """Direct which queues run alone, and return what has changed. `ready` are the slots whose worker consumes."""
        self._queues.look(ready, now_ns)
        queues, deadly = self._queues.to_run_alone, self._queues.deadly
        before = self._ordered
        is_found = bool(deadly - self._told)
        for queue in sorted(deadly - self._told):
            _LOG.warning(_DEADLY, queue, extra=log_event("deadly_queue_found", queue=queue))
        for queue in sorted(queues - deadly - before):
            _LOG.warning(_TRIED, queue, extra=log_event("deadly_queue_suspected", queue=queue))
        for queue in sorted(before - queues):
            facts = log_event("deadly_queue_cleared", queue=queue)
            _LOG.info("the messages of queue %s run beside others again", queue, extra=facts)
        self._told = deadly
        rests = self._queues.rests(now_ns)
        if queues == before and rests == self._board.directives.alone_rests:
            return Change(False, is_found)
        self._ordered = queues
        self._board.directives.run_alone(sorted(queues), rests)
        return Change(True, is_found)

    def next_wakeup(self, now_ns: int) -> int | None:
        """Return the next instant at which `look` may change something; None for never."""
        return self._queues.next_wakeup(now_ns)

    def hold(self, ended: Exit, peak_rss_bytes: int, stack: str, now_ns: int) -> None:
        """Suspect the messages that a worker had started, if its end was unasked. Call before the slot is reused."""
        told = self._board.told(ended.slot)
        is_hang = ended.reason is Reason.HANG
        if not self._is_on or not ended.is_unasked or (_was_leaving(told, ended.status) and not is_hang):
            return
        keys = told.keys_in_flight()
        if not keys:
            return
        death = Death(ended.status, peak_rss_bytes, ended.uptime_s, int(time.time()), readable(stack), is_hang)
        queue, queues = told.alone_queue, told.queues()
        if queue is not None and told.alone_key in keys:
            self._queues.died_alone(ended.slot, queue, queues, now_ns)
        else:
            self._queues.died_in_company(told.queues_in_flight(), queues, now_ns)
        count, known = self._board.suspects.enter(keys, told.alone_key, death)
        _LOG.warning(
            "worker %d (process %d) may have been killed by what it handled: %d %s, %d of them suspect before%s; "
            "each runs alone when it is delivered again",
            ended.slot,
            ended.pid,
            count,
            "message" if count == 1 else "messages",
            known,
            ", one of them alone" if told.alone_key in keys else "",
            extra=log_event(
                "suspects_entered", worker=ended.slot, worker_pid=ended.pid, suspects=count, known_suspects=known
            ),
        )


def _was_leaving(told: Told, status: int) -> bool:
    """Whether the worker was draining by itself, and left behind only what its drain had no time for."""
    return told.state in _LEAVING and status >= 0
