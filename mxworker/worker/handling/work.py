"""What a started delivery is taken through, step by step: `SingleWork.run`. Batches have `batch_work`.

Invariant: exactly one settlement per delivery, except for those cut short by a drain: unless their handler still
succeeds, they stay unsettled, for the broker to deliver again.
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
from mxworker.worker.handling.record import Record
from mxworker.worker.handling.report import Report
from mxworker.worker.handling.running import Running
from mxworker.worker.handling.settling import Settling

Unit = TypeVar("Unit", contravariant=True)


Watch = Callable[[Settlement, float], None]
"""Is told how each delivery ended, and the monotonic instant in seconds at which it was started."""


class Work(Protocol[Unit]):
    """What is done with the units of one handler."""

    def run(self, unit: Unit) -> Coroutine[Any, Any, bool]:
        """Take a unit to its end; return False when it was given back unprocessed."""

    def rescue(self, unit: Unit, error: BaseException) -> Coroutine[Any, Any, None]:
        """Settle what `run` has left unsettled when it raised `error`; raises nothing but a cut's cancellation."""

    def give_back(self, unit: Unit) -> None:
        """Settle a unit as not processed; of a lost channel, let it go."""

    def is_stale(self, unit: Unit) -> bool:
        """Whether the broker delivers all of it again anyway."""

    def key(self, unit: Unit) -> int:
        """Return the key of a unit that is one message; see `message_keys`."""

    def is_suspect(self, unit: Unit) -> bool:
        """Whether something is known against a unit that is one message."""

    def clear(self, unit: Unit) -> None:
        """Hold a unit that is one message above suspicion; of a lost channel, leave that to who gets it now."""


class Rescue:
    """Settles what could not be settled; see `Settling.rescue`."""

    def __init__(self, report: Report, settling: Settling, running: Running[Any]) -> None:
        self._report = report
        self._settling = settling
        self._running = running

    async def one(self, delivery: Delivery, error: BaseException) -> None:
        """Settle a delivery whose execution or settlement raised `error`; raises nothing but a cut's cancellation."""
        if is_a(error, GeneratorExit) and source_of(delivery).holds(delivery):
            # It came out of something that the handler awaited, and has closed all that was to settle the delivery.
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
        """Whether `error` is the cancellation of what was cut short, and is left unsettled."""
        return self._running.is_cut_short and is_a(error, asyncio.CancelledError)


class SingleWork:
    """Deliveries one by one."""

    def __init__(
        self,
        record: Record,
        execute: Execute,
        report: Report,
        settling: Settling,
        running: Running[Delivery],
        watch: Watch | None,
    ) -> None:
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
        """Take a delivery its way; return False when it was given back unprocessed."""
        # The way of a delivery, a step after the other. One that has killed too many workers is set aside instead.
        #
        # 1. Record: it stands on the board until it is settled.
        # 2. Decode, 3. call, 4. judge: these make a settlement of it, see `execution.pipeline`. For a `cpu=True`
        #    handler another process does that, see `cpu.pool`. Why it was cancelled, if it was, is judged here.
        # 5. Settle: at once where a frame is enough.
        # 6. Else copy: a retry, a requeue or a dead letter is published and confirmed, then the original is acked.
        record = self._record
        running = self._running
        if delivery.redelivered and (convict := record.conviction(delivery)) is not None:
            running.settle(delivery)
            await quarantine(delivery, convict, record, self._settling)
            return True
        started_at = time.monotonic() if self._watch is not None else 0.0
        entry = record.enter(delivery)
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
            # Who was told to leave may turn that into an error of its own; only a success still counts then.
            if running.is_cut_short and not isinstance(settlement, Ack):
                return True
            if self._watch is not None:
                self._watch(settlement, started_at)
            ends = self._settling.settle(delivery, settlement)
            if ends is not None:
                running.settle(delivery)
                del settlement  # it has the exception, which has the frames of the handler with all that is in them
                await self._settling.by_copy(delivery, ends)
            return True
        finally:
            record.leave(entry)

    async def rescue(self, delivery: Delivery, error: BaseException) -> None:
        """Settle a delivery that `run` has left unsettled when it raised `error`."""
        self._running.settle(delivery)
        if self._running.is_cut_short:
            return
        with self._record.entered([delivery]):
            await self._rescue.one(delivery, error)

    def is_stale(self, delivery: Delivery) -> bool:
        """Whether its channel has ended."""
        return delivery.is_stale


async def quarantine(delivery: Delivery, convict: Suspect, record: Record, settling: Settling) -> None:
    """Set a message aside that kills; put back into its queue by an operator, it has new tries."""
    stack = record.stack_of(convict)
    if await settling.quarantine(delivery, convict, stack):
        record.clear(delivery)
