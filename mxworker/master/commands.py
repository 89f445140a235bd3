"""The operator's commands, be they signals or requests from the control socket, and what is done about each.

It turns a command into what the fleet is to do, or into directives for all workers, and tells the operator how a stop
goes. Knows nothing about sockets, nor how signals arrive. All instants are monotonic nanoseconds.

    signal          first                       again
    ------          -----                       -----
    TERM            drain                       nothing
    INT             drain                       second: cancel running handlers; third: kill
    QUIT            kill
    HUP             rolling reload; drain when the terminal that the service was started on has gone
    TTIN TTOU       one worker more, less       the same
    USR1            have each worker log what it runs
    USR2            pause all queues            resume them
"""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from mxworker.board.layout import HANDLER_NAMES
from mxworker.board.metrics import fold
from mxworker.board.page import Board
from mxworker.control import protocol
from mxworker.control.metrics_json import plain
from mxworker.control.protocol import Request, RequestRefused
from mxworker.master import drain_report
from mxworker.master.drain_report import DrainReport
from mxworker.master.fleet import Fleet
from mxworker.master.profiles import Profiles
from mxworker.master.service_status import StatusReport
from mxworker.master.slot import NS_PER_S, Order
from mxworker.master.slots import DRAIN_SLACK_NS
from mxworker.system.log import set_level
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign
from mxworker.system.terminal import SETTLES_S, Terminal

_LOG = logging.getLogger("mxworker.master")

_QUEUES_SHOWN = 20


class Commands:
    """Does what the operator wants."""

    def __init__(
        self,
        fleet: Fleet,
        board: Board,
        status: StatusReport,
        profiles: Profiles,
        tell_all: Callable[[Order], None],
        terminal: Terminal | None,
    ) -> None:
        """`tell_all` gives an order to all workers. Without `terminal` every SIGHUP means a reload."""
        self._fleet = fleet
        self._board = board
        self._status = status
        self._profiles = profiles
        self._tell_all = tell_all
        self._terminal = terminal
        self._hang_up_until_ns: int | None = None
        """Until when a SIGHUP may turn out to be the hang-up of the terminal."""
        self._interrupts = 0
        self._drain_report = DrainReport()

    def next_wakeup(self) -> int | None:
        """Return when `take_signals` or `tell_of_drain` has something to do unasked; None for never."""
        if self._fleet.is_stopping:
            return _earlier(self._hang_up_until_ns, self._drain_report.due_ns)
        return self._hang_up_until_ns

    # ---- signals

    def take_signals(self, signums: Iterable[signal.Signals], now_ns: int) -> None:
        """Do what the signals ask. Call in each turn, also without any: a SIGHUP may take a moment to be understood."""
        for signum in signums:
            self._take_signal(signum, now_ns)
        self._tell_hang_up_from_reload(now_ns)

    def _take_signal(self, signum: signal.Signals, now_ns: int) -> None:
        match signum:  # SIGCHLD is none of the operator's
            case signal.SIGTERM:
                self._fleet.stop(now_ns)
            case signal.SIGINT:
                self._interrupt(now_ns)
            case signal.SIGQUIT:
                self._kill(now_ns)
            case signal.SIGHUP:
                is_on_terminal = self._terminal is not None and self._terminal.was_there
                self._hang_up_until_ns = now_ns + (round(SETTLES_S * NS_PER_S) if is_on_terminal else 0)
            case signal.SIGTTIN:
                self._scale_by(1, now_ns)
            case signal.SIGTTOU:
                self._scale_by(-1, now_ns)
            case signal.SIGUSR1:
                _LOG.info("SIGUSR1: asking the workers what they run", extra=log_event("dump_requested"))
                self._dump()
            case signal.SIGUSR2:
                self._toggle_pause()

    def _interrupt(self, now_ns: int) -> None:
        self._interrupts += 1
        match self._interrupts:
            case 1:
                self._fleet.stop(now_ns)
            case 2:
                self._cut_short(now_ns)
            case _:
                self._kill(now_ns)

    def _tell_hang_up_from_reload(self, now_ns: int) -> None:
        """Drain when the SIGHUP came because the terminal has gone; reload when the terminal is still there."""
        if self._hang_up_until_ns is None:
            return
        if self._terminal is not None and self._terminal.has_gone:
            self._hang_up_until_ns = None
            _LOG.info("the terminal has gone", extra=log_event("terminal_lost"))
            self._fleet.stop(now_ns)
        elif now_ns >= self._hang_up_until_ns:
            self._hang_up_until_ns = None
            self._fleet.reload(now_ns)

    def _scale_by(self, more: int, now_ns: int) -> None:
        try:
            self._fleet.scale(self._fleet.wanted + more, now_ns)
        except ValueError as error:
            _LOG.warning("no change: %s", error, extra=log_event("scale_refused", why=str(error)))

    # ---- requests

    def answer(self, request: Request, now_ns: int) -> Mapping[str, Any]:
        """Do what is asked and return what is to be said of it. Raises RequestRefused when it cannot be done."""
        match request:
            case protocol.Status():
                return {"status": self._status.status(now_ns)}
            case protocol.Metrics():
                return {"status": self._status.status(now_ns), "metrics": plain(fold(self._board))}
            case protocol.Reload():
                return self._reload(now_ns)
            case protocol.Pause(queue):
                return self._pause(queue)
            case protocol.Resume(queue):
                return self._resume(queue)
            case protocol.Scale(workers):
                return self._scale(workers, now_ns)
            case protocol.Stop():
                self._fleet.stop(now_ns)
            case protocol.Dump():
                self._dump()
            case protocol.LogLevel(name):
                self._set_log_level(name)
            case protocol.Profile():
                return self._profiles.begin(request, now_ns)
            case protocol.ProfileState(number):
                return self._profiles.state(number, now_ns)
            case protocol.ProfilePart(number, at):
                return self._profiles.part(number, at, now_ns)
            case protocol.ProfileEnd(number):
                return self._profiles.end(number)
            case _:
                assert_never(request)
        return {}

    # ---- the workers

    def _dump(self) -> None:
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

    def _toggle_pause(self) -> None:
        """Pause all queues; when they are, resume them."""
        if self._board.directives.all_paused:
            self._resume(None)
        else:
            self._pause(None)

    def _pause(self, queue: str | None) -> Mapping[str, Any]:
        if queue is None:
            self._board.directives.pause_all()
        else:
            self._check_consumed(queue)
            try:
                self._board.directives.pause(queue)
            except ValueError as error:
                raise RequestRefused(f"{error}.") from None
        return self._changed("paused", queue)

    def _resume(self, queue: str | None) -> Mapping[str, Any]:
        if queue is None:
            self._board.directives.resume_all()
        else:
            if queue not in self._board.directives.paused_queues:
                self._check_consumed(queue)
            self._board.directives.resume(queue)
        return self._changed("resumed", queue)

    def _changed(self, what: str, queue: str | None) -> Mapping[str, Any]:
        facts = log_event("pause_changed", change=what, queue=queue)
        _LOG.info("%s: %s", what, "all queues" if queue is None else f"queue {foreign(queue)}", extra=facts)
        self._tell_all(Order.LOOK)
        return {"paused": self._status.paused()}

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
        self._board.directives.set_log_level(logging.getLogger().level)
        self._tell_all(Order.LOOK)

    # ---- how a stop goes

    def _cut_short(self, now_ns: int) -> None:
        self._tell(drain_report.cancelling(running := self._running()), running)
        self._drain_report.end()
        self._fleet.cut_short(now_ns)

    def _kill(self, now_ns: int) -> None:
        self._tell(drain_report.killing(running := self._running()), running)
        self._drain_report.end()
        self._fleet.kill(now_ns)

    def tell_of_drain(self, now_ns: int) -> None:
        """Say at its start, and every 10 s, what a drain waits for."""
        if self._fleet.stop_deadline_ns is None:
            return
        running = self._running()
        deadline_ns = self._fleet.stop_deadline_ns - DRAIN_SLACK_NS
        text = self._drain_report.line(running, deadline_ns, now_ns, by_ctrl_c=self._interrupts > 0)
        if text is not None:
            self._tell(text, running)

    def _running(self) -> Counter[str]:
        """Count the deliveries that are being handled, by handler; those that the board cannot name are `other`."""
        told = [self._board.told(slot.number) for slot in self._fleet.slots if slot.pid is not None]
        named = Counter(held.handler for each in told for held in each.in_flight())
        return +(named + Counter(other=sum(each.in_flight_count for each in told) - named.total()))

    def _tell(self, text: str, running: Counter[str]) -> None:
        _LOG.info("%s", text, extra=log_event("drain_progress", handlers=dict(running)))


def _earlier(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)
