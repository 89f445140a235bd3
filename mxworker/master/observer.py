"""The observer from the master's side: its process is kept alive, and it is told how the service is.

The observer serves HTTP and knows the service by the board alone. The master writes the status of the service there in
each turn of its loop, but ten times a second at most, and at least once a second: the instant of the last status tells
the observer that the loop turns. What becomes of the observer never matters to the workers. It is the last process to
go: it dies with the master.
"""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from mxworker.board.page import Board
from mxworker.control.status import ServiceStatus
from mxworker.master.observer_states import Action, ObserverPlan, ObserverState
from mxworker.master.processes import Children, Ended
from mxworker.master.slot import NS_PER_S
from mxworker.system.exit_status import in_words
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.master")

TELL_EVERY_NS = NS_PER_S
TELL_APART_NS = NS_PER_S // 10  # a status of 512 workers takes some milliseconds


@dataclass(frozen=True, slots=True)
class Observing:
    """What the observer's process runs, which returns an exit code, and the descriptors that it inherits."""

    run: Callable[[], int]
    fds: frozenset[int]
    url: str


class Observer:
    """The one process of the observer, over its restarts."""

    def __init__(
        self,
        observing: Observing,
        board: Board,
        children: Children,
        status: Callable[[int], ServiceStatus],
        heartbeat_timeout_s: float,
    ) -> None:
        """`status` returns the status of the service at an instant."""
        self._observing = observing
        self._board = board
        self._children = children
        self._status = status
        self._timeout_ns = round(heartbeat_timeout_s * NS_PER_S)
        self._plan = ObserverPlan(random.Random())  # noqa: S311 - jitter, no secret
        self._pid: int | None = None
        self._told_ns: int | None = None
        self._tell_ns = 0
        """When the next status is due."""

    def take_in(self, ended: Iterable[Ended], now_ns: int) -> list[Ended]:
        """Take in the end of the observer, if it is among these, and return the others."""
        others = []
        for child in ended:
            if child.pid == self._pid:
                self._ended(child, now_ns)
            else:
                others.append(child)
        return others

    def act(self, now_ns: int) -> None:
        """Do what is due: call in each turn of the loop, after all that may change the status."""
        self._tell(now_ns)
        if self._pid is not None:
            self._plan.observe(self._board.observer_deadline_ns)
        match self._plan.plan(now_ns):
            case Action.START:
                self._start(now_ns)
            case Action.KILL:
                self._kill()

    def next_wakeup(self) -> int:
        """Return the next instant at which `act` has something to do."""
        planned_ns = self._plan.next_wakeup()
        return self._tell_ns if planned_ns is None else min(self._tell_ns, planned_ns)

    def overslept(self, now_ns: int) -> None:
        """Take in that the master was held up."""
        self._plan.overslept(now_ns)

    def _tell(self, now_ns: int) -> None:
        """Write the status, or note when it is due: soon after a turn that came too early, else in a second."""
        if self._told_ns is not None and now_ns < self._told_ns + TELL_APART_NS:
            self._tell_ns = self._told_ns + TELL_APART_NS
            return
        self._board.status.write(orjson.dumps(self._status(now_ns)), now_ns)
        self._told_ns = now_ns
        self._tell_ns = now_ns + TELL_EVERY_NS

    def _start(self, now_ns: int) -> None:
        deadline_ns = now_ns + self._timeout_ns
        self._board.beat_as_observer(deadline_ns)
        try:
            self._pid = self._children.spawn_observer(self._observing.run, self._observing.fds)
        except OSError as error:
            self._plan.failed(now_ns)
            facts = log_event("observer_spawn_failed", error=str(error))
            _LOG.warning("the observer cannot be started: %s", error, extra=facts)
        else:
            self._plan.spawned(deadline_ns, now_ns)

    def _ended(self, child: Ended, now_ns: int) -> None:
        was_killed = self._plan.state is ObserverState.KILLING
        self._pid = None
        next_s = self._plan.ended(now_ns)
        if not was_killed:
            facts = log_event("observer_ended", observer_pid=child.pid, status=child.status, next_start_s=next_s)
            text = "the observer (process %d) ended: %s; the next one starts in %.2f s"
            _LOG.warning(text, child.pid, in_words(child.status), next_s, extra=facts)

    def _kill(self) -> None:
        assert self._pid is not None, "the plan kills only a process"
        text = "the observer (process %d) has missed its heartbeat; it is killed"
        _LOG.warning(text, self._pid, extra=log_event("observer_late", observer_pid=self._pid))
        self._children.send(self._pid, signal.SIGKILL)
