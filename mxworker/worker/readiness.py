"""The state of a worker: it follows from how many of its queues are consumed, and is written to the board.

Code on trial consumes nothing before all its queues are checked. Otherwise code that cannot start, since one queue is
refused, would already have handled deliveries of another.
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
from mxworker.system.log_events import log_event

log = logging.getLogger(__name__)


class Trial(Enum):
    """How far the code of this process has proved that it can start."""

    CHECKING = auto()
    """Its queues are being declared, and none is consumed until all are."""
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
    """The state of one worker. `move` sets a state that does not follow from the queues. Belongs to one event loop."""

    def __init__(
        self,
        slot: BoardSlot,
        handlers: Sequence[Handler],
        link: Link,
        consumers: Sequence[Consumer],
        show: Callable[[WorkerState], None],
    ) -> None:
        """`consumers`, those of the `link`, may be filled later; `show` gets every state, for the process title."""
        self.state = WorkerState.BOOTING
        self.changed = asyncio.Event()
        """Set by each `look`; the task that waits for it clears it."""
        self._trial = Trial.CHECKING if slot.is_on_trial and len(handlers) > 1 else Trial.STARTING
        self._slot = slot
        self._handlers = handlers
        self._link = link
        self._consumers = consumers
        self._show = show

    @property
    def is_checking(self) -> bool:
        """Whether no queue may be consumed yet. Consumers are then paused as UNPROVEN."""
        return self._trial is Trial.CHECKING

    @property
    def was_ready(self) -> bool:
        """Whether all queues were consumed at once since the start, even if they are not any more."""
        return self.state is WorkerState.READY or self._trial is Trial.SERVED

    def look(self) -> None:
        """Set the state by how many queues are consumed now. A queue that is paused counts as consumed."""
        self.changed.set()
        if self.state is WorkerState.DRAINING or self.state is WorkerState.STOPPED:
            return
        if self.is_checking and all(consumer.is_as_wanted for consumer in self._consumers):
            self._consume_all()
        as_wanted = sum(consumer.is_as_wanted for consumer in self._consumers)
        if as_wanted == len(self._consumers):
            self._tell_ready()
            self._slot.words[Word.EVER_READY] = 1  # before the state, since the master reads both at the ring
            self.move(WorkerState.READY)
        elif as_wanted:
            self.move(WorkerState.DEGRADED)
        else:
            self.move(WorkerState.CONNECTING)

    def move(self, state: WorkerState) -> None:
        """Go to a state and write it to the board; the present state changes nothing.

        Raises InvariantError when the present state does not lead to it.
        """
        if state is self.state:
            return
        former, self.state = self.state, next_worker_state(self.state, state)
        self._slot.write_state(state)
        self._slot.ring()
        self._show(state)
        facts = log_event("worker_state", worker=self._slot.number, state=state.name.lower())
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
        """Log that all queues are consumed. Call before the master can know, so that its own line follows."""
        number, connection = self._slot.number, self._link.live
        if self.state is WorkerState.READY or connection is None:
            return
        facts = {"worker": number, "server": connection.server, "broker": str(connection.url)}
        if self._trial is Trial.SERVED:
            log.info("worker %d consumes all its queues again", number, extra=log_event("worker_recovered", **facts))
            return
        place = connection.url.place
        log.info(
            "worker %d is ready: %s at %s", number, connection.server, place, extra=log_event("worker_ready", **facts)
        )
        self._warn_of_limits(connection.server)
        self._pass(Trial.SERVED)

    def _warn_of_limits(self, server: str) -> None:
        """Warn of queues that may drop deliveries that are given back. Worker 1 warns, once for all workers."""
        if self._slot.number > 1 or self._slot.ever_ready:
            return
        for handler in self._handlers:
            doubt = handler.queue.doubt_of_limit(server)
            if doubt is not None:
                log.warning(doubt, extra=log_event("delivery_limit_unset", queue=handler.queue.name))
