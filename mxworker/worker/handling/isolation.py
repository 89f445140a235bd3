r"""Runs suspects alone: one at a time in the process, while no other unit is started.

    IDLE -> ASKED -> EMPTYING -> ALONE -> IDLE, RESTING or ASKED
      \-> RESTING -> ASKED

The master gives turns (`master.isolation_turns`) to one worker at a time. A turn is for one suspect. Until our turn,
all other units run as usual. In our turn no unit is started (EMPTYING). When the running units have ended, the suspect
that has waited longest is started. When it has ended, other units start again. If others had to wait meanwhile, no
suspect runs for as long as they had to wait (RESTING), so that they have at least half of the time. A stuck handler is
not waited for: EMPTYING ends without it, and ALONE ends when the suspect is stuck.

Messages that are only doubtful are handled here, too. Before the master gives a turn, it looks which workers have died.
A message that is not in its table of suspects then runs like all others.

This module knows nothing about handlers, deliveries and the treatment of a suspect that kills.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Protocol

from mxworker.board.layout import Given, Word
from mxworker.board.slot import BoardSlot
from mxworker.errors import InvariantError
from mxworker.system.log_events import log_event
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.running import Running

log = logging.getLogger(__name__)

_MASTER_LOOKS_WITHIN_S = 0.5  # after the call, although it may give the turn to others


class IsolationStage(Enum):
    """The stage of the next suspect."""

    IDLE = auto()
    RESTING = auto()
    ASKED = auto()
    EMPTYING = auto()
    ALONE = auto()


_NEXT: Mapping[IsolationStage, frozenset[IsolationStage]] = MappingProxyType(
    {
        IsolationStage.IDLE: frozenset({IsolationStage.RESTING, IsolationStage.ASKED}),
        IsolationStage.RESTING: frozenset({IsolationStage.ASKED, IsolationStage.IDLE}),
        IsolationStage.ASKED: frozenset({IsolationStage.EMPTYING, IsolationStage.IDLE}),
        IsolationStage.EMPTYING: frozenset({IsolationStage.ALONE, IsolationStage.IDLE}),
        IsolationStage.ALONE: frozenset({IsolationStage.IDLE}),
    }
)


class SuspectHolder(Protocol):
    """A dispatcher with suspects that wait."""

    def let_go_innocent(self) -> None:
        """Treat those that are no suspects like all other units. Withdraw when none are left."""

    def start_alone(self) -> int | None:
        """Start the suspect that has waited longest and return its key, or None when none can be started now.

        You must ask again when others wait.
        """


class Isolation:
    """The place of a process in which suspects run. Belongs to one event loop."""

    def __init__(
        self, slot: BoardSlot, limiter: Limiter, loop: asyncio.AbstractEventLoop, call_master: Callable[[], None]
    ) -> None:
        """`call_master` makes the master look at the board."""
        self._slot = slot
        self._limiter = limiter
        self._loop = loop
        self._call_master = call_master
        self._stage = IsolationStage.IDLE
        self._line: deque[SuspectHolder] = deque()  # each at most once
        self._all_running: list[Running[Any]] = []
        self._request = 0
        self._asked_at = 0.0
        self._closed_at = 0.0
        self._others_until = 0.0
        self._rest: asyncio.TimerHandle | None = None

    def mind(self, running: Running[Any]) -> None:
        """Also wait for the units in `running` before a suspect is started. Call at the start, for all handlers."""
        self._all_running.append(running)

    def ask(self, loner: SuspectHolder) -> None:
        """Call `loner` when one of its suspects may start. A repeated request changes nothing."""
        if loner not in self._line:
            self._line.append(loner)
        if self._stage is IsolationStage.IDLE:
            self._prepare()

    def withdraw(self, loner: SuspectHolder) -> None:
        """Do not call `loner` any more, since none of its suspects waits."""
        if loner in self._line:
            self._line.remove(loner)
        if not self._line:
            self._give_up()

    def stop(self) -> None:
        """Start no more suspects. Call when a drain begins, which gives back those that wait."""
        self._line.clear()
        self._give_up()

    def look(self) -> None:
        """Check whether it is our turn. Call at the master's signal, and from time to time."""
        if self._stage is not IsolationStage.ASKED:
            return
        is_granted = self._slot.given[Given.ISOLATION_GRANTED] == self._request
        if is_granted or self._loop.time() - self._asked_at > _MASTER_LOOKS_WITHIN_S:
            for loner in tuple(self._line):
                loner.let_go_innocent()
        if is_granted and self._line:
            self._move(IsolationStage.EMPTYING)
            self._closed_at = self._loop.time()
            self._limiter.close(self.review)
            self.review()

    def review(self) -> None:
        """Go on to the next stage if the running units allow it. Call when a unit has ended or is stuck."""
        if self._stage not in (IsolationStage.EMPTYING, IsolationStage.ALONE) or self._is_busy:
            return
        if self._stage is IsolationStage.ALONE or not self._start_next():
            self._reopen()

    @property
    def _is_busy(self) -> bool:
        """Whether any unit runs that is not stuck."""
        return any(len(running) > len(running.stuck) for running in self._all_running)

    def _start_next(self) -> bool:
        while self._line:
            key = self._line.popleft().start_alone()
            if key is not None:
                self._slot.show_alone(key)
                self._move(IsolationStage.ALONE)
                return True
        return False

    def _reopen(self) -> None:
        """Start other units again, and let the master give the next turn."""
        self._slot.show_alone(None)
        now = self._loop.time()
        self._others_until = now + (now - self._closed_at) if self._limiter.is_wanted else now
        self._move(IsolationStage.IDLE)
        self._take_back_request()
        self._limiter.open()  # units that it starts may end at once, and ask
        if self._line and self._stage is IsolationStage.IDLE:
            self._prepare()

    def _prepare(self) -> None:
        """Ask the master for a turn, after the other units had their time."""
        if self._loop.time() < self._others_until:
            self._move(IsolationStage.RESTING)
            self._rest = self._loop.call_at(self._others_until, self._ask_master)
        else:
            self._ask_master()

    def _ask_master(self) -> None:
        self._move(IsolationStage.ASKED)
        self._request += 1
        self._asked_at = self._loop.time()
        self._slot.words[Word.ISOLATION_WANTED] = self._request
        self._call_master()

    def _take_back_request(self) -> None:
        self._slot.words[Word.ISOLATION_WANTED] = 0
        self._call_master()

    def _give_up(self) -> None:
        """Go back to IDLE. In ALONE the end of the suspect does that."""
        match self._stage:
            case IsolationStage.RESTING:
                assert self._rest is not None, "it is what RESTING waits for"
                self._rest.cancel()
                self._move(IsolationStage.IDLE)
            case IsolationStage.ASKED:
                self._move(IsolationStage.IDLE)
                self._take_back_request()
            case IsolationStage.EMPTYING:
                self._reopen()
            case IsolationStage.IDLE | IsolationStage.ALONE:
                pass

    def _move(self, stage: IsolationStage) -> None:
        if stage not in _NEXT[self._stage]:
            raise InvariantError(f"isolation does not go from {self._stage.name} to {stage.name}")
        facts = log_event("isolation_state", state=stage.name.lower())
        log.debug("isolation %s -> %s", self._stage.name, stage.name, extra=facts)
        self._stage = stage
