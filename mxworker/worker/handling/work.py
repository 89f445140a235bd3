"""The steps of a started delivery, in order: `SingleWork.run`. For batches see `batch_work`.

Invariant: every delivery has exactly one settlement. Only deliveries that a drain cuts short may have none: they stay
unsettled unless their handler still succeeds, and the broker redelivers them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mxworker.api.delivery import Delivery, source_of
from mxworker.api.settlement import Ack, Settlement
from mxworker.board.suspects import Suspect
from mxworker.system.foreign_errors import is_a
from mxworker.worker.handling.decode_budget import Unprocessed
from mxworker.worker.handling.execution import Execute
from mxworker.worker.handling.handler_metrics import HandlerMetrics
from mxworker.worker.handling.record import Record
from mxworker.worker.handling.report import Report
from mxworker.worker.handling.running import Running
from mxworker.worker.handling.settling import Settling

Unit = TypeVar("Unit", contravariant=True)


Watch = Callable[[Delivery, Settlement, float], None]
"""Takes each delivery with its settlement, and the instant of the handlers' clock at which it was started."""


class Work(Protocol[Unit]):
    """The work on the units of one handler."""

    def run(self, unit: Unit) -> Coroutine[Any, Any, bool]:
        """Run a unit to its end. Return False when it was given back unprocessed."""

    def rescue(self, unit: Unit, error: BaseException) -> Coroutine[Any, Any, None]:
        """Settle a unit that `run` left unsettled when it raised `error`. Raises only the cancellation by a cut."""

    def give_back(self, unit: Unit) -> None:
        """Settle a unit as not processed. A unit of a lost channel is only counted as stale."""

    def is_stale(self, unit: Unit) -> bool:
        """Whether the broker redelivers the whole unit, since its channel has ended."""

    def key(self, unit: Unit) -> int:
        """Return the key of a unit that is one message; see `message_keys`."""

    def is_suspect(self, unit: Unit) -> bool:
        """Whether a unit that is one message is a suspect."""

    def clear(self, unit: Unit) -> None:
        """Clear a unit that is one message of suspicion. Does nothing when its channel is lost."""


class Rescue:
    """Settles deliveries whose settlement failed; see `Settling.rescue`."""

    def __init__(self, report: Report, settling: Settling, running: Running[Any]) -> None:
        self._report = report
        self._settling = settling
        self._running = running

    async def one(self, delivery: Delivery, error: BaseException) -> None:
        """Settle a delivery whose execution or settlement raised `error`. Raises only the cancellation by a cut."""
        if is_a(error, GeneratorExit) and source_of(delivery).holds(delivery):
            # An awaitable of the handler raised it, and it has closed the coroutines that were to settle the delivery.
            try:
                ends = self._settling.settle(delivery, self._report.failed(error))
                if ends is not None:
                    await self._settling.by_copy(delivery, ends)
                return
            except BaseException as fault:
                if self.is_cut(fault):
                    raise
                error = fault
        await self._settling.rescue(delivery, error, self.is_cut)

    def is_cut(self, error: BaseException) -> bool:
        """Whether `error` is the cancellation by a cut, after which deliveries are left unsettled."""
        return self._running.is_cut_short and is_a(error, asyncio.CancelledError)


class SingleWork:
    """The work on single deliveries."""

    def __init__(
        self,
        record: Record,
        execute: Execute,
        report: Report,
        settling: Settling,
        running: Running[Delivery],
        watch: Watch | None,
        metrics: HandlerMetrics | None,
    ) -> None:
        """Without `metrics`, only outcomes are counted."""
        self._metrics = metrics
        self._record = record
        self._execute = execute
        self._report = report
        self._settling = settling
        self._running = running
        self._watch = watch
        self._rescue = Rescue(report, settling, running)
        self.give_back = record.give_back
        self.key = record.key
        self.is_suspect = record.is_suspect
        self.clear = record.clear

    async def run(self, delivery: Delivery) -> bool:
        """Run a delivery to its end. Return False when it was given back unprocessed."""
        # The steps of a delivery, in order. A message that has killed too many workers goes into quarantine instead.
        #
        # 1. Record: the delivery is on the board until its settlement was sent.
        # 2. Decode, 3. call, 4. judge: these make its settlement, see `execution.pipeline`. For a `cpu=True` handler
        #    another process does them, see `cpu.pool`. The reason of a cancellation is judged here.
        # 5. Settle: at once when a frame is enough.
        # 6. Copy, otherwise: a retry, a requeue or a dead letter is published and confirmed, then the original acked.
        record = self._record
        running = self._running
        if delivery.redelivered and (convict := record.conviction(delivery)) is not None:
            running.settle(delivery)
            await quarantine(delivery, convict, record, self._settling)
            return True
        metrics = self._metrics
        started_at = time.monotonic()
        if metrics is not None:
            metrics.begin(delivery, started_at, len(running.started))
        entry = record.enter(delivery, started_at)
        try:
            try:
                settlement = await self._execute(delivery)
            except Unprocessed:
                self.give_back(delivery)
                return False
            except asyncio.CancelledError:
                if running.is_cut_short:
                    return True
                settlement = self._report.cancelled(running.is_timed_out(delivery))
            if metrics is not None:
                metrics.end_run(started_at)
            # A handler may turn its cancellation into another exception. After a cut only a success counts.
            if running.is_cut_short and not is_success(settlement):
                return True
            if self._watch is not None:
                self._watch(delivery, settlement, running.started_at(delivery))
            ends = self._settling.settle(delivery, settlement)
            if ends is not None:
                running.settle(delivery)
                del settlement  # its exception holds the frames of the handler with their variables
                await running.completed(self._settling.by_copy(delivery, ends))
            return True
        finally:
            record.leave(entry)
            if metrics is not None:
                metrics.show_in_flight(len(running.started) - 1)  # it leaves them next

    async def rescue(self, delivery: Delivery, error: BaseException) -> None:
        """Settle a delivery that `run` left unsettled when it raised `error`."""
        self._running.settle(delivery)
        if self._running.is_cut_short:
            return
        with self._record.entered([delivery]):
            await self._running.completed(self._rescue.one(delivery, error))

    def is_stale(self, delivery: Delivery) -> bool:
        """Whether its channel has ended."""
        return delivery.is_stale


def is_success(settlement: Settlement) -> bool:
    """Whether the handler has succeeded. The ack of `on_error="ack"` is for a failure."""
    return isinstance(settlement, Ack) and settlement.failure is None


async def quarantine(delivery: Delivery, convict: Suspect, record: Record, settling: Settling) -> None:
    """Put a message that kills workers into quarantine. If an operator puts it back, it starts with no kills."""
    stack = record.stack_of(convict)
    if await settling.quarantine(delivery, convict, stack):
        record.clear(delivery)
