"""How the service is, as `mxworker status` and the observer are told: made from the fleet and the board on request.

Changes nothing. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

import os
import time

from mxworker import __version__
from mxworker.board.layout import Word
from mxworker.board.metrics import outcomes
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.config.process import Supervision
from mxworker.control.status import (
    PausedStatus,
    ReloadStatus,
    ServiceStatus,
    WorkerStatus,
    cause_of,
    why_unhealthy,
    why_unready,
)
from mxworker.master.conditions import links_of, unconsumed_by
from mxworker.master.fleet import Fleet
from mxworker.master.plan import Exit, RollState
from mxworker.master.slot import NS_PER_S, Slot
from mxworker.master.slot_states import Reason, SlotState
from mxworker.master.slots import DRAIN_SLACK_NS
from mxworker.system.log import level
from mxworker.system.printable import well_formed

RESTARTS = (
    Reason.CRASH,
    Reason.HANG,
    Reason.LEFT_UNASKED,
    Reason.BROKEN,
    Reason.DRAIN_TIMEOUT,
    Reason.RELOAD,
    Reason.RECYCLE,
)
"""Why a worker ended that another one follows, unless the service is being stopped."""


class StatusReport:
    """Tells the state of one service. It keeps what neither the fleet nor the board does: how workers ended."""

    def __init__(self, supervision: Supervision, fleet: Fleet, board: Board, now_ns: int, http: str = "") -> None:
        """`now_ns` is the instant at which the service started, `http` its URL if it has one."""
        self._name = supervision.name
        self._heartbeat_ns = round(supervision.heartbeat_timeout_s * NS_PER_S)
        self._http = http
        self._fleet = fleet
        self._board = board
        self._started_ns = now_ns
        self._started_at_unix_s = time.time()
        self._exits: dict[int, str] = {}  # at most one per slot
        self._restarts = dict.fromkeys(map(_label, RESTARTS), 0)
        self._last_note = ""

    def note_exit(self, ended: Exit, how: str, note: str) -> None:
        """Keep in mind how the last worker of a slot ended, and the note it left if it could not start."""
        self._exits[ended.slot] = f"{how} ({ended.reason.value})"
        if ended.reason in RESTARTS and not self._fleet.is_stopping:
            self._restarts[_label(ended.reason)] += 1
        if note:
            self._last_note = note

    def status(self, now_ns: int) -> ServiceStatus:
        """Return how the service is now."""
        fleet, directives = self._fleet, self._board.directives
        state = "stopping" if fleet.is_stopping else "running" if self._board.ever_ready else "starting"
        alive = [self._board.told(slot.number) for slot in fleet.slots if slot.pid is not None]
        now_unix_s = time.time()
        links, unconsumed = links_of(alive, now_ns, now_unix_s), unconsumed_by(alive, now_ns, now_unix_s)
        cause = cause_of(links, unconsumed)
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
            unready_because=why_unready(state, fleet.wanted, fleet.ready, directives.all_paused, cause),
            reload=self._last_reload(),
            paused=self.paused(),
            run_alone=directives.alone_queues,
            log_level=level(),
            workers=tuple(self._worker(slot, now_ns) for slot in fleet.slots),
            links=links,
            unconsumed=unconsumed,
            drain_left_s=self._drain_left_s(now_ns),
            http=self._http,
            restarts=self._restarts,
            reloads={state.name.lower(): count for state, count in fleet.reloads.items()},
        )

    def _drain_left_s(self, now_ns: int) -> float | None:
        deadline_ns = self._fleet.stop_deadline_ns
        if deadline_ns is None:
            return None
        return round(max(0, deadline_ns - DRAIN_SLACK_NS - now_ns) / NS_PER_S, 3)

    def _last_reload(self) -> ReloadStatus:
        roll = self._fleet.roll
        note = self._last_note if roll.state is RollState.REFUSED else ""
        return ReloadStatus(roll.state.name.lower(), roll.generation, roll.why, well_formed(note))

    def paused(self) -> PausedStatus:
        """Return which queues the operator has paused."""
        return PausedStatus(self._board.directives.all_paused, self._board.directives.paused_queues)

    def _worker(self, slot: Slot, now_ns: int) -> WorkerStatus:
        told = self._board.told(slot.number)
        words, counts = told.words, outcomes(self._board.slot(slot.number).metrics)
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
            heartbeat_age_s=self._heartbeat_age_s(slot, now_ns),
            rss_bytes=words[Word.RSS_BYTES] if lives else None,
            in_flight=told.in_flight_count if lives else 0,
            acked=counts[Outcome.ACK],
            requeued=counts[Outcome.REQUEUE],
            retried=counts[Outcome.RETRY],
            rejected=counts[Outcome.REJECT],
            undecodable=counts[Outcome.DECODE_ERROR],
            timed_out=counts[Outcome.TIMEOUT],
            quarantined=counts[Outcome.QUARANTINE],
            stale=counts[Outcome.STALE],
            restarts=max(0, slot.spawns - 1),
            last_exit=self._exits.get(slot.number, ""),
        )

    def _heartbeat_age_s(self, slot: Slot, now_ns: int) -> float | None:
        """Return how long ago the worker beat. A worker that ends promises its last beat for a longer time."""
        if slot.pid is None or slot.state is SlotState.STARTING:
            return None
        return round(max(0, now_ns - (slot.deadline_ns - self._heartbeat_ns)) / NS_PER_S, 3)


def _late_s(slot: Slot, now_ns: int) -> float:
    return max(0, now_ns - slot.deadline_ns) / NS_PER_S


def _label(reason: Reason) -> str:
    return reason.value.replace(" ", "_")
