r"""The states of the observer's process, with a literal transition table, and when it is started and killed.

    VACANT -> STARTING -> SERVING
       ^          \          \
       |           +----------+-> KILLING
       +-- reaped, backoff ---------+

The observer is judged by its heartbeat, as a worker is. It holds nothing that must be saved, so one that is late is
killed at once. This module is pure. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType

from mxworker.backoff import RESPAWN
from mxworker.errors import InvariantError
from mxworker.master.fleet import SETTLED_AFTER_NS, WITHHOLD_NS
from mxworker.master.slot import NS_PER_S


class ObserverState(Enum):
    """What the master knows of the observer."""

    VACANT = auto()
    STARTING = auto()
    SERVING = auto()
    KILLING = auto()


class ObserverEvent(Enum):
    """What can happen to the observer."""

    SPAWNED = auto()
    BEAT = auto()
    LATE = auto()
    ENDED = auto()


OBSERVER_TRANSITIONS: Mapping[tuple[ObserverState, ObserverEvent], ObserverState] = MappingProxyType(
    {
        (ObserverState.VACANT, ObserverEvent.SPAWNED): ObserverState.STARTING,
        (ObserverState.STARTING, ObserverEvent.BEAT): ObserverState.SERVING,
        (ObserverState.STARTING, ObserverEvent.LATE): ObserverState.KILLING,
        (ObserverState.STARTING, ObserverEvent.ENDED): ObserverState.VACANT,
        (ObserverState.SERVING, ObserverEvent.BEAT): ObserverState.SERVING,
        (ObserverState.SERVING, ObserverEvent.LATE): ObserverState.KILLING,
        (ObserverState.SERVING, ObserverEvent.ENDED): ObserverState.VACANT,
        (ObserverState.KILLING, ObserverEvent.ENDED): ObserverState.VACANT,
    }
)


class Action(Enum):
    """What is to be done about the observer."""

    START = auto()
    KILL = auto()


class ObserverPlan:
    """The process of the observer over its restarts."""

    def __init__(self, rng: random.Random) -> None:
        """Begin without a process, and due at once. `rng` is the source of the backoff's jitter."""
        self.state = ObserverState.VACANT
        self._rng = rng
        self._due_ns = 0
        self._deadline_ns = 0
        self._judge_from_ns = 0
        self._spawned_ns = 0
        self._failures = 0

    def plan(self, now_ns: int) -> Action | None:
        """Return what is to be done now, if anything."""
        if self.state is ObserverState.VACANT:
            return Action.START if now_ns >= self._due_ns else None
        if self.state is not ObserverState.KILLING and now_ns > self._deadline_ns and now_ns >= self._judge_from_ns:
            self._move(ObserverEvent.LATE)
            return Action.KILL
        return None

    def next_wakeup(self) -> int | None:
        """Return the next instant at which `plan` may have a result; None for never."""
        match self.state:
            case ObserverState.VACANT:
                return self._due_ns
            case ObserverState.KILLING:
                return None
        return max(self._deadline_ns + 1, self._judge_from_ns)

    def spawned(self, deadline_ns: int, now_ns: int) -> None:
        """Take in that the process was forked; it must beat before `deadline_ns`."""
        self._move(ObserverEvent.SPAWNED)
        self._spawned_ns = now_ns
        self._deadline_ns = deadline_ns

    def observe(self, deadline_ns: int) -> None:
        """Take in the heartbeat deadline on the board."""
        if self.state in (ObserverState.STARTING, ObserverState.SERVING) and deadline_ns != self._deadline_ns:
            self._deadline_ns = deadline_ns
            self._move(ObserverEvent.BEAT)

    def overslept(self, now_ns: int) -> None:
        """Do not judge the observer for 2 s: the master was held up, so perhaps the whole machine was."""
        self._judge_from_ns = now_ns + WITHHOLD_NS

    def failed(self, now_ns: int) -> float:
        """Take in that the process could not be forked. Return after how many seconds the next one is due."""
        delay_s = RESPAWN.delay_s(self._failures, self._rng)
        self._failures += 1
        self._due_ns = now_ns + round(delay_s * NS_PER_S)
        return delay_s

    def ended(self, now_ns: int) -> float:
        """Take in that the process was reaped. Return after how many seconds the next one is due."""
        if now_ns - self._spawned_ns >= SETTLED_AFTER_NS:
            self._failures = 0
        self._move(ObserverEvent.ENDED)
        return self.failed(now_ns)

    def _move(self, event: ObserverEvent) -> None:
        try:
            self.state = OBSERVER_TRANSITIONS[self.state, event]
        except KeyError:
            raise InvariantError(
                f"the observer's state {self.state.name} does not know the event {event.name}"
            ) from None
