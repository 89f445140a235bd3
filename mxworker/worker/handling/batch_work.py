"""The steps of a started batch: it is recorded and executed, and each of its deliveries is settled on its own.

Invariants: see `work`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from mxworker.api.delivery import Delivery, source_of
from mxworker.api.settlement import Settlement
from mxworker.system.foreign_errors import is_a
from mxworker.worker.handling.batch_execution import ExecuteBatch, Undecodable
from mxworker.worker.handling.batching import Gathered
from mxworker.worker.handling.decode_budget import Unprocessed
from mxworker.worker.handling.endings import Again, Dead, Later
from mxworker.worker.handling.handler_metrics import HandlerMetrics
from mxworker.worker.handling.record import Record
from mxworker.worker.handling.report import ACK, Report
from mxworker.worker.handling.running import Running
from mxworker.worker.handling.settling import Settling
from mxworker.worker.handling.work import Rescue, Watch, is_success, quarantine


class BatchWork:
    """The work on batches. Each delivery has a settlement of its own."""

    def __init__(
        self,
        record: Record,
        execute: ExecuteBatch,
        report: Report,
        settling: Settling,
        running: Running[Gathered],
        watch: Watch | None,
        run_next: Callable[[Gathered], None],
        metrics: HandlerMetrics | None,
    ) -> None:
        """`run_next` puts a batch before all others that wait. Without `metrics`, only outcomes are counted."""
        self._metrics = metrics
        self._record = record
        self._execute = execute
        self._report = report
        self._settling = settling
        self._running = running
        self._watch = watch
        self._run_next = run_next
        self._rescue = Rescue(report, settling, running)

    async def run(self, gathered: Gathered) -> bool:
        """Execute a batch and settle all its deliveries. Return False when it was given back unprocessed."""
        gathered.is_closed = True
        deliveries = self._alive(gathered)
        if not deliveries:
            return False
        running = self._running
        convict = self._record.conviction(deliveries[0]) if len(deliveries) == 1 else None
        if convict is not None:
            running.settle(gathered)
            await quarantine(deliveries[0], convict, self._record, self._settling)
            return True
        started_at = time.monotonic()
        if self._metrics is not None:
            in_flight = self.in_flight
            for delivery in deliveries:
                self._metrics.begin(delivery, started_at, in_flight)
        try:
            return await self._executed(gathered, deliveries, started_at)
        finally:
            if self._metrics is not None:
                self._metrics.show_in_flight(self.in_flight - len(gathered.deliveries))  # the batch leaves them next

    @property
    def in_flight(self) -> int:
        """The number of deliveries in the batches that run."""
        return sum(len(gathered.deliveries) for gathered in self._running.started)

    async def _executed(self, gathered: Gathered, deliveries: list[Delivery], started_at: float) -> bool:
        running = self._running
        undecodable: Undecodable = {}
        with self._record.entered(deliveries) as entries:
            try:
                settlements = await self._execute(
                    deliveries,
                    undecodable,
                    partial(running.suspended, gathered),
                    lambda rest: self._leave(gathered, rest, entries),
                )
            except Unprocessed:
                for delivery in deliveries:
                    self._record.give_back(delivery)
                return False
            except asyncio.CancelledError:
                if running.is_cut_short:
                    return True
                settlement = self._report.cancelled(running.is_timed_out(gathered))
                settlements = [undecodable.get(delivery, settlement) for delivery in deliveries]
            if self._metrics is not None:
                self._metrics.end_run(started_at)
            if self._watch is not None:
                began_at = running.started_at(gathered)
                for delivery, settlement in zip(deliveries, settlements, strict=True):
                    self._watch(delivery, settlement, began_at)
            await self._settle(gathered, deliveries, settlements, entries)
            return True

    def _leave(self, gathered: Gathered, rest: list[Delivery], entries: dict[Delivery, int]) -> None:
        """Make the next batch of the deliveries for which a batch had no room."""
        left = set(rest)
        gathered.deliveries = [delivery for delivery in gathered.deliveries if delivery not in left]
        for delivery in rest:
            self._record.leave(entries.pop(delivery))
        self._run_next(Gathered.of(rest))

    async def rescue(self, gathered: Gathered, error: BaseException) -> None:
        """Settle the deliveries of a batch that `run` left unsettled when it raised `error`."""
        self._running.settle(gathered)
        if self._running.is_cut_short:
            return
        left = [delivery for delivery in gathered.deliveries if source_of(delivery).holds(delivery)]
        with self._record.entered(left) as entries:
            if is_a(error, GeneratorExit):
                await self._settle(gathered, left, [self._report.failed(error)] * len(left), entries)
            else:
                rescued = asyncio.gather(*(self._rescue.one(delivery, error) for delivery in left))
                await self._running.completed(rescued)

    def _alive(self, gathered: Gathered) -> list[Delivery]:
        """Return the deliveries that are not stale. The broker redelivers those whose channel was lost in the wait."""
        if not any(delivery.is_stale for delivery in gathered.deliveries):
            return gathered.deliveries
        for delivery in gathered.deliveries:
            if delivery.is_stale:
                self._record.give_back(delivery)
        return [delivery for delivery in gathered.deliveries if not delivery.is_stale]

    async def _settle(
        self,
        gathered: Gathered,
        deliveries: list[Delivery],
        settlements: list[Settlement],
        entries: dict[Delivery, int],
    ) -> None:
        """Settle each delivery of a batch independently of the others. Settled deliveries leave the record."""
        alike = Counter(map(id, settlements))
        acked, settle = self._settling.acked, self._settling.settle
        settled = []
        slow = []
        for delivery, settlement in zip(deliveries, settlements, strict=True):
            if self._running.is_cut_short and not is_success(settlement):
                continue
            try:
                if settlement is ACK:
                    acked(delivery)
                    ends = None
                else:
                    ends = settle(delivery, settlement, alike.pop(id(settlement), 0))
            except BaseException as error:
                slow.append(self._rescue.one(delivery, error))
                continue
            if ends is None:
                settled.append(delivery)
            else:
                slow.append(self._copied(delivery, ends))
        if slow:
            for delivery in settled:  # without slow ones, all leave with the batch
                self._record.leave(entries.pop(delivery))
            self._running.settle(gathered)
            await self._running.completed(asyncio.gather(*slow))

    async def _copied(self, delivery: Delivery, ends: Again | Later | Dead) -> None:
        try:
            await self._settling.by_copy(delivery, ends)
        except BaseException as error:
            if self._rescue.is_cut(error):
                raise
            await self._rescue.one(delivery, error)

    def give_back(self, gathered: Gathered) -> None:
        """Settle all deliveries of a batch as not processed."""
        gathered.is_closed = True
        for delivery in gathered.deliveries:
            self._record.give_back(delivery)

    def is_stale(self, gathered: Gathered) -> bool:
        """Whether the channels of all its deliveries have ended."""
        return all(delivery.is_stale for delivery in gathered.deliveries)

    def key(self, gathered: Gathered) -> int:
        """Return the key of the only message in the batch."""
        (delivery,) = gathered.deliveries
        return self._record.key(delivery)

    def is_suspect(self, gathered: Gathered) -> bool:
        """Whether the only message in the batch is a suspect."""
        (delivery,) = gathered.deliveries
        return self._record.is_suspect(delivery)

    def clear(self, gathered: Gathered) -> None:
        """Clear the only message in the batch of suspicion."""
        (delivery,) = gathered.deliveries
        self._record.clear(delivery)
