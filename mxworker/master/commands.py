"""The operator's commands, be they signals or lines from the control socket, and what is done about each.

It turns a request into what the fleet is to do, or into directives for all workers, and tells how the service is.
Knows nothing about sockets. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from mxworker import __version__
from mxworker.board.layout import HANDLER_NAMES, Word
from mxworker.board.page import Board
from mxworker.control.protocol import (
    Dump,
    LogLevel,
    Pause,
    Reload,
    Request,
    RequestRefused,
    Resume,
    Scale,
    Status,
    Stop,
)
from mxworker.control.status import (
    PausedStatus,
    ReloadStatus,
    ServiceStatus,
    WorkerStatus,
    why_unhealthy,
    why_unready,
)
from mxworker.master.fleet import Fleet
from mxworker.master.plan import Exit, RollState
from mxworker.master.slot import NS_PER_S, Order, Slot
from mxworker.system.log import level, set_level
from mxworker.system.printable import foreign, well_formed

_LOG = logging.getLogger("mxworker.master")

_QUEUES_SHOWN = 20


class Commands:
    """Deals with requests. `tell_all` gives an order to all workers."""

    def __init__(self, name: str, fleet: Fleet, board: Board, tell_all: Callable[[Order], None], now_ns: int) -> None:
        self._name = name
        self._fleet = fleet
        self._board = board
        self._tell_all = tell_all
        self._started_ns = now_ns
        self._started_at_unix_s = time.time()
        self._exits: dict[int, str] = {}
        self._last_note = ""

    def note_exit(self, ended: Exit, how: str, note: str) -> None:
        """Keep in mind how the last worker of a slot ended, and the note it left if it could not start."""
        self._exits[ended.slot] = f"{how} ({ended.reason.value})"
        if note:
            self._last_note = note

    def answer(self, request: Request, now_ns: int) -> Mapping[str, Any]:
        """Do what is asked and return what is to be said of it. Raises RequestRefused when it cannot be done."""
        match request:
            case Status():
                return {"status": self._status(now_ns)}
            case Reload():
                return self._reload(now_ns)
            case Pause(queue):
                return self._pause(queue)
            case Resume(queue):
                return self._resume(queue)
            case Scale(workers):
                return self._scale(workers, now_ns)
            case Stop():
                self._fleet.stop(now_ns)
            case Dump():
                self.dump()
            case LogLevel(name):
                self._set_log_level(name)
            case _:
                assert_never(request)
        return {}

    # ---- the workers

    def dump(self) -> None:
        """Have each worker log what it runs."""
        self._tell_all(Order.DUMP)

    def _reload(self, now_ns: int) -> Mapping[str, Any]:
        if self._fleet.is_stopping:
            raise RequestRefused("the service is stopping; it reloads no more.")
        before = self._fleet.generation
        self._fleet.reload(now_ns)
        if self._fleet.generation == before:
            raise RequestRefused("a service that runs with --burst does not reload.")
        return {"generation": self._fleet.generation}

    def _scale(self, workers: int, now_ns: int) -> Mapping[str, Any]:
        if self._fleet.is_stopping:
            raise RequestRefused("the service is stopping; it starts no more workers.")
        before = self._fleet.wanted
        try:
            self._fleet.scale(workers, now_ns)
        except ValueError as error:
            raise RequestRefused(f"{error}.") from None
        return {"workers_before": before, "workers": self._fleet.wanted}

    # ---- directives

    def toggle_pause(self) -> None:
        """Pause all queues; when they are, resume them."""
        if self._board.orders.all_paused:
            self._resume(None)
        else:
            self._pause(None)

    def _pause(self, queue: str | None) -> Mapping[str, Any]:
        if queue is None:
            self._board.orders.pause_all()
        else:
            self._check_consumed(queue)
            try:
                self._board.orders.pause(queue)
            except ValueError as error:
                raise RequestRefused(f"{error}.") from None
        return self._changed("paused", queue)

    def _resume(self, queue: str | None) -> Mapping[str, Any]:
        if queue is None:
            self._board.orders.resume_all()
        else:
            if queue not in self._board.orders.paused_queues:
                self._check_consumed(queue)
            self._board.orders.resume(queue)
        return self._changed("resumed", queue)

    def _changed(self, what: str, queue: str | None) -> Mapping[str, Any]:
        facts = {"queue": queue}
        _LOG.info("%s: %s", what, "all queues" if queue is None else f"queue {foreign(queue)}", extra=facts)
        self._tell_all(Order.LOOK)
        return {"paused": self._paused()}

    def _check_consumed(self, queue: str) -> None:
        """Refuse a queue that no worker consumes: its name is most likely misspelt."""
        told = [self._board.told(slot.number) for slot in self._fleet.slots if slot.pid is not None]
        if any(each.consumes(queue) for each in told):
            return
        known = next((names for each in told if (names := each.queues())), None)
        if known is not None and len(known) >= HANDLER_NAMES:
            return  # there are more than the board has places for, and this may be one of them
        if known is None:
            raise RequestRefused("no worker has said yet what it consumes; try again when the service is ready.")
        more = f" and {len(known) - _QUEUES_SHOWN} more" if len(known) > _QUEUES_SHOWN else ""
        raise RequestRefused(
            f"no worker consumes the queue {queue!r}. They consume: {', '.join(known[:_QUEUES_SHOWN])}{more}."
        )

    def _set_log_level(self, name: str) -> None:
        set_level(name)
        self._board.orders.set_log_level(logging.getLogger().level)
        self._tell_all(Order.LOOK)

    # ---- how it is

    def _status(self, now_ns: int) -> ServiceStatus:
        fleet, orders = self._fleet, self._board.orders
        state = "stopping" if fleet.is_stopping else "running" if self._board.ever_ready else "starting"
        return ServiceStatus(
            name=well_formed(self._name),
            version=__version__,
            pid=os.getpid(),
            state=state,
            started_at_unix_s=round(self._started_at_unix_s, 3),
            uptime_s=round((now_ns - self._started_ns) / NS_PER_S, 3),
            generation=fleet.generation,
            workers_wanted=fleet.wanted,
            workers_ready=fleet.ready,
            unhealthy_because=why_unhealthy(fleet.is_beyond_repair(now_ns)),
            unready_because=why_unready(state, fleet.wanted, fleet.ready, orders.all_paused),
            reload=self._last_reload(),
            paused=self._paused(),
            run_alone=orders.alone_queues,
            log_level=level(),
            workers=tuple(self._worker(slot, now_ns) for slot in fleet.slots),
        )

    def _last_reload(self) -> ReloadStatus:
        roll = self._fleet.roll
        note = self._last_note if roll.state is RollState.REFUSED else ""
        return ReloadStatus(roll.state.name.lower(), roll.generation, roll.why, well_formed(note))

    def _paused(self) -> PausedStatus:
        return PausedStatus(self._board.orders.all_paused, self._board.orders.paused_queues)

    def _worker(self, slot: Slot, now_ns: int) -> WorkerStatus:
        told = self._board.told(slot.number)
        words = told.words
        lives = slot.pid is not None
        return WorkerStatus(
            slot=slot.number,
            pid=slot.pid,
            state=slot.state.name.lower(),
            consuming=told.state.name.lower() if lives else "vacant",
            reason=slot.reason.value,
            generation=slot.generation,
            uptime_s=round((now_ns - slot.spawned_ns) / NS_PER_S, 3) if lives else None,
            heartbeat_late_s=round(_late_s(slot, now_ns), 3) if lives else None,
            rss_bytes=words[Word.RSS_BYTES] if lives else None,
            in_flight=told.in_flight_count if lives else 0,
            acked=words[Word.ACKED],
            requeued=words[Word.REQUEUED],
            retried=words[Word.RETRIED],
            rejected=words[Word.REJECTED],
            stale=words[Word.STALE],
            restarts=max(0, slot.spawns - 1),
            last_exit=self._exits.get(slot.number, ""),
        )


def _late_s(slot: Slot, now_ns: int) -> float:
    return max(0, now_ns - slot.deadline_ns) / NS_PER_S
