"""Applies a handler's circuit breaker: pauses the queue, tries a few deliveries later, and resumes the queue.

Failures are ends that the next delivery is likely to share: an exception, a timeout, a lost process, and a handler that
asks for another attempt. A message that is refused, or cannot be decoded, is no evidence about the others. It counts
neither in a trial nor in the ratio of failures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import assert_never

from mxworker.api.circuit_breaker import Action, Breaker, CircuitBreaker, Close, PauseUntil, Try
from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery
from mxworker.api.failures import FailureKind
from mxworker.api.settlement import Ack, Reject, Settlement
from mxworker.system.log import LineBudget, say_safely
from mxworker.system.log_events import log_event
from mxworker.worker.handling.clock import Clock, Timer
from mxworker.worker.handling.work import Watch

log = logging.getLogger(__name__)

REASON = "circuit breaker"


class Verdict(Enum):
    """The evidence that the end of a delivery gives about the next one."""

    SUCCESS = auto()
    FAILURE = auto()
    NO_NEWS = auto()


class BreakerDriver:
    """Watches the deliveries of one handler. Belongs to one event loop."""

    def __init__(
        self,
        settings: CircuitBreaker,
        queue: str,
        clock: Clock,
        pause: Callable[[str], None],
        resume: Callable[[str], None],
        limit_prefetch: Callable[[int | None], None],
        limit: Callable[[int | None], None],
    ) -> None:
        """`pause` and `resume` take a reason, and steer the consumer of `queue`.

        `limit_prefetch` bounds the unsettled deliveries, `limit` those that run at once. None removes either limit.
        """
        self._switch = Breaker(settings)
        self._queue = queue
        self._clock = clock
        self._pause = pause
        self._resume = resume
        self._limit_prefetch = limit_prefetch
        self._limit = limit
        self._rest: Timer | None = None

    def note(self, settlement: Settlement, started_at: float) -> None:
        """Count the end of a delivery that was started at the instant `started_at`."""
        verdict = verdict_on(settlement)
        if verdict is Verdict.NO_NEWS:
            return
        take = self._switch.failed if verdict is Verdict.FAILURE else self._switch.succeeded
        self._act(take(self._clock.time(), started_at))

    def note_stuck(self, started_at: float) -> None:
        """Count a stuck delivery as a failure. It has not ended, but a trial with it has failed."""
        self._act(self._switch.failed(self._clock.time(), started_at))

    def _act(self, action: Action | None) -> None:
        match action:
            case None:
                pass
            case PauseUntil(until):
                log.error(
                    "circuit breaker of queue %s: too many deliveries fail; the queue is paused for %.0f s",
                    self._queue,
                    until - self._clock.time(),
                    extra=log_event("circuit_breaker_opened", queue=self._queue),
                )
                self._pause(REASON)
                self._rest = self._clock.call_at(until, self._rested)
            case Try(deliveries):
                facts = log_event("circuit_breaker_trial", queue=self._queue, deliveries=deliveries)
                log.warning(
                    "circuit breaker of queue %s: trying again, %d at a time", self._queue, deliveries, extra=facts
                )
                self._limit(deliveries)
                self._limit_prefetch(deliveries)  # more deliveries would only be given back if the trial fails
                self._resume(REASON)
            case Close():
                facts = log_event("circuit_breaker_closed", queue=self._queue)
                log.warning("circuit breaker of queue %s: the trial has passed", self._queue, extra=facts)
                self._limit(None)
                self._limit_prefetch(None)
            case _:
                assert_never(action)

    def stop(self) -> None:
        """Stop the timer. Call when nothing is consumed any more, and call `note` no more after that."""
        if self._rest is not None:
            self._rest.cancel()

    def _rested(self) -> None:
        self._act(self._switch.rested(self._clock.time()))


class HandlerBreaker:
    """The circuit breaker of a handler, if it has one. It counts the ends of deliveries from `steer` until `stop`.

    An error of the breaker is logged, and affects no delivery.
    """

    def __init__(self, handler: Handler, clock: Clock, limit: Callable[[int | None], None]) -> None:
        """`limit` bounds the deliveries that run at once; None removes the limit."""
        self._settings = handler.circuit_breaker
        self._queue = handler.queue.name
        self._clock = clock
        self._limit = limit
        self._driver: BreakerDriver | None = None
        self._faults = LineBudget()

    def steer(
        self,
        pause: Callable[[str], None],
        resume: Callable[[str], None],
        limit_prefetch: Callable[[int | None], None],
    ) -> None:
        """Steer the consumer of the queue from now on, by these three functions."""
        if self._settings is not None:
            self._driver = BreakerDriver(
                self._settings, self._queue, self._clock, pause, resume, limit_prefetch, self._limit
            )

    def watching(self, also: Watch | None) -> Watch | None:
        """Return a function for the settlement of each delivery, which calls `also`, too; None when nobody wants it."""
        if self._settings is None or also is None:
            return also if self._settings is None else self.note

        def note(delivery: Delivery, settlement: Settlement, started_at: float) -> None:
            also(delivery, settlement, started_at)
            self.note(delivery, settlement, started_at)

        return note

    def note(self, _: Delivery, settlement: Settlement, started_at: float) -> None:
        """Count the end of a delivery that was started at the instant `started_at`."""
        if self._driver is None:
            return
        try:
            self._driver.note(settlement, started_at)
        except Exception as error:
            more = self._faults.spend(time.monotonic())
            if more is not None:
                fields = log_event("circuit_breaker_failed", queue=self._queue)
                text = "the circuit breaker of queue %s failed%s"
                say_safely(log, logging.ERROR, text, self._queue, more, error=error, fields=fields)

    def note_stuck(self, started_at: float) -> None:
        """Count a stuck delivery that was started at the instant `started_at`."""
        if self._driver is not None:
            self._driver.note_stuck(started_at)

    def stop(self) -> None:
        """Stop steering. Call when nothing is consumed any more."""
        if self._driver is not None:
            self._driver.stop()
            self._driver = None


def verdict_on(settlement: Settlement) -> Verdict:
    """Return the evidence that the end of a delivery gives about the next one."""
    failure = settlement.failure
    if failure is not None:
        is_refused = failure.kind in (FailureKind.UNDECODABLE, FailureKind.REJECTED)
        return Verdict.NO_NEWS if is_refused else Verdict.FAILURE
    match settlement:
        case Ack():
            return Verdict.SUCCESS
        case Reject():
            return Verdict.NO_NEWS
        case _:
            return Verdict.FAILURE
