"""How far a worker is: its state, which follows from how many of its queues are consumed, shown on the board.

Code on trial consumes nothing before all queues are checked: had one of them been refused, code that cannot start would
have served another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.consuming.consumer import UNPROVEN, Consumer
from mxworker.api.compilation import Handler
from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState, next_worker_state
from mxworker.board.slot import BoardSlot
from mxworker.errors import InvariantError
from mxworker.system.child import ring

log = logging.getLogger(__name__)


class Trial(Enum):
    """How much the code of this process has shown."""

    CHECKING = auto()
    """Its queues are declared, and none is consumed before all are."""
    STARTING = auto()
    SERVED = auto()
    """All its queues were consumed at the same time, at least once."""


TRIAL_TRANSITIONS: Mapping[Trial, frozenset[Trial]] = MappingProxyType(
    {
        Trial.CHECKING: frozenset({Trial.STARTING}),
        Trial.STARTING: frozenset({Trial.SERVED}),
        Trial.SERVED: frozenset(),
    }
)


class Readiness:
    """The state of one worker. `move` sets it where it does not follow from the queues. Belongs to one event loop."""

    def __init__(
        self,
        slot: BoardSlot,
        handlers: Sequence[Handler],
        link: Link,
        consumers: Sequence[Consumer],
        show: Callable[[WorkerState], None],
    ) -> None:
        """`consumers`, those of the `link`, may be filled later; `show` is told every state, for the process title."""
        self.state = WorkerState.BOOTING
        self.changed = asyncio.Event()
        """Set with each `look`; for one who waits to clear."""
        self._trial = Trial.CHECKING if slot.is_on_trial and len(handlers) > 1 else Trial.STARTING
        self._slot = slot
        self._handlers = handlers
        self._link = link
        self._consumers = consumers
        self._show = show

    @property
    def is_checking(self) -> bool:
        """Whether no queue is to be consumed yet; a consumer then pauses as UNPROVEN."""
        return self._trial is Trial.CHECKING

    def look(self) -> None:
        """Show how many of the queues are consumed now; one that is paused is as it shall be, too."""
        self.changed.set()
        if self.state is WorkerState.DRAINING or self.state is WorkerState.STOPPED:
            return
        if self.is_checking and all(consumer.is_as_wanted for consumer in self._consumers):
            self._consume_all()
        as_wanted = sum(consumer.is_as_wanted for consumer in self._consumers)
        if as_wanted == len(self._consumers):
            self._tell_ready()
            self._slot.words[Word.EVER_READY] = 1  # before the state, with which the master is rung
            self.move(WorkerState.READY)
        elif as_wanted:
            self.move(WorkerState.DEGRADED)
        else:
            self.move(WorkerState.CONNECTING)

    def move(self, state: WorkerState) -> None:
        """Go to a state and show it; to stay where it is changes nothing. Raises InvariantError for a wrong one."""
        if state is self.state:
            return
        former, self.state = self.state, next_worker_state(self.state, state)
        self._slot.write_state(state)
        ring()
        self._show(state)
        facts = {"worker": self._slot.number, "state": state.name.lower()}
        log.debug("worker %d %s -> %s", self._slot.number, former.name, state.name, extra=facts)

    def _pass(self, trial: Trial) -> None:
        if trial not in TRIAL_TRANSITIONS[self._trial]:
            raise InvariantError(f"the trial of a worker does not go from {self._trial.name} to {trial.name}")
        self._trial = trial

    def _consume_all(self) -> None:
        self._pass(Trial.STARTING)
        for consumer in self._consumers:
            consumer.resume(UNPROVEN)

    def _tell_ready(self) -> None:
        """Say that all queues are consumed. Call before the master can know, so that its own line follows."""
        number, connection = self._slot.number, self._link.live
        if self.state is WorkerState.READY or connection is None:
            return
        facts = {"worker": number, "server": connection.server, "broker": str(connection.url)}
        if self._trial is Trial.SERVED:
            log.info("worker %d consumes all its queues again", number, extra=facts)
            return
        log.info("worker %d is ready: %s at %s", number, connection.server, connection.url.place, extra=facts)
        self._warn_of_limits(connection.server)
        self._pass(Trial.SERVED)

    def _warn_of_limits(self, server: str) -> None:
        """Warn of queues that may drop what is given back. One worker does it for all, and for all that follow them."""
        if self._slot.number > 1 or self._slot.ever_ready:
            return
        for handler in self._handlers:
            doubt = handler.queue.doubt_of_limit(server)
            if doubt is not None:
                log.warning(doubt)
