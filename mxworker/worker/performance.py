"""The lines about what a worker has done: every 10 s, when there was work, and once more at its end.

The figures are those of `ctx.stats` and `ctx.publisher.stats`, which count from the start of the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from mxworker.amqp.publishing.stats import PublisherStats
from mxworker.api.context import WorkerStats
from mxworker.system.log_events import log_event
from mxworker.worker.handling.handler_runner import HandlerRunner

log = logging.getLogger(__name__)

EVERY_S = 10.0


class PerformanceLog:
    """Logs the performance of one worker. Belongs to one event loop."""

    def __init__(
        self,
        worker: int,
        published: Callable[[], PublisherStats],
        consumed: Callable[[], WorkerStats],
        runners: Sequence[HandlerRunner],
        every_s: float = EVERY_S,
    ) -> None:
        """`runners` may be filled later. Their deliveries that had no line of their own are counted in one."""
        self._worker = worker
        self._published = published
        self._consumed = consumed
        self._runners = runners
        self._every_s = every_s
        self._told_published = published()
        self._told_consumed = consumed()
        self._told_at = time.monotonic()

    async def run(self) -> None:
        """Log until cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                self.tell()
        finally:
            self.tell()

    def tell(self) -> None:
        """Log what was done since the last call, if anything was."""
        now = time.monotonic()
        passed_s, self._told_at = now - self._told_at, now
        self._tell_of_publishes(passed_s)
        self._tell_of_deliveries(passed_s)
        for runner in self._runners:
            runner.tell_rest(now)

    def _tell_of_publishes(self, passed_s: float) -> None:
        before, stats = self._told_published, self._published()
        self._told_published = stats
        if stats.tasks_queued == before.tasks_queued and _ended(stats) == _ended(before):
            return
        log.info(
            "Publisher performance: %s queued, %s processed, %s failed, %s dropped; %s a second in the last %.0f s",
            *map(_number, (stats.tasks_queued, stats.tasks_processed, stats.tasks_failed, stats.tasks_dropped)),
            _number(per_s := _rate(stats.tasks_processed - before.tasks_processed, passed_s)),
            passed_s,
            extra=log_event(
                "publisher_performance",
                worker=self._worker,
                queued=stats.tasks_queued,
                processed=stats.tasks_processed,
                failed=stats.tasks_failed,
                dropped=stats.tasks_dropped,
                processed_per_s=per_s,
            ),
        )
        dropped = stats.tasks_dropped - before.tasks_dropped
        if dropped:
            log.warning(
                "%s publishes were dropped, since the window of unconfirmed publishes was full (overflow='drop')",
                _number(dropped),
                extra=log_event("publishes_dropped", worker=self._worker, publishes=dropped),
            )

    def _tell_of_deliveries(self, passed_s: float) -> None:
        before, stats = self._told_consumed, self._consumed()
        self._told_consumed = stats
        done = _settled(stats) - _settled(before)
        if not (done or stats.active_workers or stats.queued_tasks):
            return
        log.info(
            "Consumer performance: %s processed, %s failed, %s active workers, %s queued tasks; "
            "%s a second in the last %.0f s",
            *map(_number, (stats.messages_processed, stats.messages_failed, stats.active_workers, stats.queued_tasks)),
            _number(per_s := _rate(done, passed_s)),
            passed_s,
            extra=log_event(
                "consumer_performance",
                worker=self._worker,
                processed=stats.messages_processed,
                failed=stats.messages_failed,
                active_workers=stats.active_workers,
                queued_tasks=stats.queued_tasks,
                settled_per_s=per_s,
            ),
        )


def _ended(stats: PublisherStats) -> int:
    return stats.tasks_processed + stats.tasks_failed + stats.tasks_dropped


def _settled(stats: WorkerStats) -> int:
    return stats.messages_processed + stats.messages_failed


def _rate(count: int, passed_s: float) -> float:
    return round(count / passed_s, 1) if passed_s > 0 else 0.0


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
