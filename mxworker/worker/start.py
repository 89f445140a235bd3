"""The start of a worker: it ends when all queues are consumed, or when it is clear that they will not be.

Only a first start may fail: once any worker has served, every worker waits for its broker for as long as it takes. What
keeps it from consuming is then logged where it happens, and the wait goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.consuming.consumer import REPLY_DEADLINE_S, Consumer
from mxworker.config.bounds import MAX_DURATION_S
from mxworker.config.process import Consumption
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost, TopologyRefused
from mxworker.system.log_events import log_event
from mxworker.worker.readiness import Readiness
from mxworker.worker.shutdown import Shutdown
from mxworker.worker.start_deadline import StartDeadline
from mxworker.worker.tasks import first_of

log = logging.getLogger(__name__)

_LOOK_AFTER_S = 1.0  # at least, when nothing has changed


class Start:
    """One start, run once."""

    def __init__(
        self,
        settings: Consumption,
        worker: int,
        pool: Pool,
        consumers: Sequence[Consumer],
        readiness: Readiness,
        shutdown: Shutdown,
        must_succeed: Callable[[], bool],
    ) -> None:
        """`worker` is the number of the slot; `must_succeed` returns whether the start may fail."""
        self._connect_wait_s = settings.connect_wait_s
        self._worker = worker
        self._pool = pool
        self._link = pool.consume_link
        self._consumers = consumers
        self._readiness = readiness
        self._shutdown = shutdown
        self._must_succeed = must_succeed
        self._loop = asyncio.get_running_loop()

    async def run(self) -> BrokerError | None:
        """Wait until all queues are consumed or the worker is to leave. Return why the start has failed, or None."""
        deadline = StartDeadline(self._connect_wait_s, REPLY_DEADLINE_S, self._loop.time())
        may_fail = (
            self._must_succeed() and self._connect_wait_s < MAX_DURATION_S
        )  # as `dev` has it, told as a wait without an end
        self._pool.expect_until(deadline.gives_up_at if may_fail else None)
        while not self._readiness.was_ready and not self._shutdown.requested.is_set():
            now = self._loop.time()
            is_time_up = self._is_time_up(deadline, now)
            failure = self._failure(is_time_up) if self._must_succeed() else None
            if failure is not None:
                return failure
            if deadline.has_to_tell(now):
                self._tell_progress()
            self._readiness.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline.wakes_at(now, _LOOK_AFTER_S)):
                    await first_of(self._readiness.changed.wait(), self._shutdown.requested.wait())
        self._pool.expect_until(None)
        return None

    def _is_time_up(self, deadline: StartDeadline, now: float) -> bool:
        waiting = [consumer for consumer in self._consumers if not consumer.is_as_wanted]
        return deadline.look(
            was_connected=self._link.was_up,
            is_connected=self._link.live is not None,
            consumed=len(self._consumers) - len(waiting),
            unanswered=sum(consumer.last_error is None for consumer in waiting),
            now=now,
        )

    def _failure(self, is_time_up: bool) -> BrokerError | None:
        """Return why a first start cannot succeed: only a human can change it, or the time is up."""
        errors = [consumer.last_error for consumer in self._consumers if consumer.last_error is not None]
        connection = self._link.live
        if self._link.last_error is not None and connection is None:
            errors.append(self._link.last_error)
        for error in errors:
            if error.permanent:
                return error
        if not is_time_up:
            return None
        if connection is None:
            return errors[-1] if errors else ConnectionLost("no answer")
        missing = [consumer for consumer in self._consumers if not consumer.is_as_wanted]
        if not missing:
            return None
        first = next((consumer for consumer in missing if consumer.last_error is not None), missing[0])
        why = first.last_error or f"queue '{first.queue.name}' is still being declared"
        of_all = f"{len(missing)} of {len(self._consumers)} queues"
        return ChannelLost(f"connected to {connection.url}, but {of_all} are not consumed: {why}")

    def _tell_progress(self) -> None:
        """Log how far a slow start is; of workers that start together, one does."""
        if self._link.live is None:
            return
        number, total = self._worker, len(self._consumers)
        done = sum(consumer.is_as_wanted for consumer in self._consumers)
        level = logging.DEBUG if number > 1 and self._must_succeed() else logging.INFO
        facts = log_event("start_progress", worker=number, queues=total, consumed=done)
        log.log(level, "worker %d: %d of %d queues declared and consumed", number, done, total, extra=facts)


def level_of(settings: Consumption, worker: int, must_succeed: Callable[[], bool], error: BrokerError) -> int:
    """Return the level of the line that tells of `error`.

    An error that ends a first start is logged at its end. An error of a broker is logged by one worker for all.
    """
    has_other_brokers = len(settings.brokers.urls) > 1 and not isinstance(error, TopologyRefused)
    ends_the_start = error.permanent and not has_other_brokers
    is_told_otherwise = ends_the_start or worker > 1
    return logging.DEBUG if must_succeed() and is_told_otherwise else logging.WARNING
