"""What a started unit is taken through: on record in the board, executed, settled.

Invariant: exactly one settlement per delivery, except for those cut short by a drain: unless their handler still
succeeds, they stay unsettled, for the broker to deliver again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

from mxworker.board import BoardSlot, Word
from mxworker.compilation import Handler
from mxworker.config import DEFAULT_QUARANTINE_AFTER
from mxworker.copies import attempt_of
from mxworker.delivery import Delivery
from mxworker.properties import message_id_bytes
from mxworker.settlement import Ack, Settlement
from mxworker.suspects import Suspect, message_key
from mxworker.worker.execution import Execute, ExecuteBatch, Undecodable
from mxworker.worker.gathering import Gathered
from mxworker.worker.report import Report
from mxworker.worker.running import Running
from mxworker.worker.settling import Settling

Unit = TypeVar("Unit", contravariant=True)


Watch = Callable[[Settlement, float], None]
"""Is told how each delivery ended, and the monotonic instant in seconds at which it was started."""


class Work(Protocol[Unit]):
    """What is done with the units of one handler."""

    def run(self, unit: Unit) -> Coroutine[Any, Any, None]:
        """Take a unit to its end."""

    def give_back(self, unit: Unit) -> None:
        """Settle a unit as not processed; of a lost channel, let it go."""

    def is_stale(self, unit: Unit) -> bool:
        """Whether the broker delivers all of it again anyway."""

    def key(self, unit: Unit) -> int:
        """Return the key of a unit that is one message; see `suspects.message_key`."""

    def is_suspect(self, unit: Unit) -> bool:
        """Whether something is known against a unit that is one message."""

    def clear(self, unit: Unit) -> None:
        """Hold a unit that is one message above suspicion; of a lost channel, leave that to who gets it now."""


class Standing(Enum):
    """What is known against a message."""

    INNOCENT = auto()
    DOUBTFUL = auto()
    """Another process has started it. Either that has lost its channel, or it has died and the master does not know."""
    SUSPECT = auto()
    CONVICTED = auto()


class Record:
    """What the board knows of one handler's messages: which were started, and which are suspect."""

    def __init__(
        self, handler: Handler, index: int, slot: BoardSlot, quarantine_after: int = DEFAULT_QUARANTINE_AFTER
    ) -> None:
        """`index` is the handler's place in the board's directory."""
        self.words = slot.words
        self.leave = slot.leave
        self._slot = slot
        self._index = index
        self._queue = handler.queue.name
        self._max_attempts = handler.max_attempts
        self._suspects = slot.suspects
        self._quarantine_after = quarantine_after

    def enter(self, delivery: Delivery) -> int:
        """Record a delivery as started; the entry is for `leave`."""
        message_id = message_id_bytes(delivery.raw_properties)
        attempt = attempt_of(delivery, self._max_attempts)
        key = message_key(self._queue, message_id, delivery.body)
        return self._slot.enter(self._index, delivery.delivery_tag, attempt, message_id, time.monotonic_ns(), key)

    def give_back(self, delivery: Delivery) -> None:
        """Settle a delivery as not processed, and count it when it was stale."""
        if not delivery.source.give_back(delivery):
            self.words[Word.STALE] += 1

    # ---- suspects

    def key(self, delivery: Delivery) -> int:
        """Return the key of a message."""
        return message_key(self._queue, message_id_bytes(delivery.raw_properties), delivery.body)

    def standing(self, delivery: Delivery) -> Standing:
        """Say what is known against a message that the broker delivers again."""
        if not self._quarantine_after:
            return Standing.INNOCENT
        key = self.key(delivery)
        suspect = self._suspects.find(key)
        if suspect is not None:
            return Standing.CONVICTED if suspect.is_convicted(self._quarantine_after) else Standing.SUSPECT
        return Standing.DOUBTFUL if self._slot.is_started_elsewhere(key) else Standing.INNOCENT

    def is_suspect(self, delivery: Delivery) -> bool:
        """Whether something is known against a message."""
        return self._suspects.find(self.key(delivery)) is not None

    def conviction(self, delivery: Delivery) -> Suspect | None:
        """Return what is known against a message, if that is enough for the quarantine."""
        if not delivery.redelivered or not self._suspects.deaths:
            return None
        suspect = self._suspects.find(self.key(delivery))
        return suspect if suspect is not None and suspect.is_convicted(self._quarantine_after) else None

    def stack_of(self, convict: Suspect) -> str:
        """Return what the last worker that it killed said of itself."""
        return self._suspects.stack(convict.death)

    def clear(self, delivery: Delivery) -> None:
        """Hold a message above suspicion, unless it is another worker's by now."""
        if not delivery.is_stale:
            self._suspects.clear(self.key(delivery))


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
        self.give_back = record.give_back
        self.key = record.key
        self.is_suspect = record.is_suspect
        self.clear = record.clear

    async def run(self, delivery: Delivery) -> None:
        """Execute and settle a delivery."""
        record = self._record
        running = self._running
        if delivery.redelivered and (convict := record.conviction(delivery)) is not None:
            running.settle(delivery)
            await _quarantine(delivery, convict, record, self._settling)
            return
        started_at = time.monotonic() if self._watch is not None else 0.0
        entry = record.enter(delivery)
        try:
            settlement = await self._execute(delivery)
        except asyncio.CancelledError:
            if running.is_cut_short:
                return
            settlement = self._report.cancelled(delivery, running.is_timed_out(delivery))
        finally:
            record.leave(entry)
        # Who was told to leave may turn that into an error of its own; only a success still counts then.
        if running.is_cut_short and not isinstance(settlement, Ack):
            return
        if self._watch is not None:
            self._watch(settlement, started_at)
        ends = self._settling.settle(delivery, settlement)
        if ends is not None:
            running.settle(delivery)
            await self._settling.by_copy(delivery, ends)

    def is_stale(self, delivery: Delivery) -> bool:
        """Whether its channel has ended."""
        return delivery.source.is_lost


class BatchWork:
    """Deliveries by the batch, each with a settlement of its own."""

    def __init__(
        self,
        record: Record,
        execute: ExecuteBatch,
        report: Report,
        settling: Settling,
        running: Running[Gathered],
        watch: Watch | None,
    ) -> None:
        self._record = record
        self._execute = execute
        self._report = report
        self._settling = settling
        self._running = running
        self._watch = watch

    async def run(self, gathered: Gathered) -> None:
        """Execute a batch and settle all that is in it."""
        gathered.is_closed = True
        deliveries = self._alive(gathered)
        if not deliveries:
            return
        running = self._running
        convict = self._record.conviction(deliveries[0]) if len(deliveries) == 1 else None
        if convict is not None:
            running.settle(gathered)
            await _quarantine(deliveries[0], convict, self._record, self._settling)
            return
        started_at = time.monotonic()
        entries = [self._record.enter(delivery) for delivery in deliveries]
        undecodable: Undecodable = {}
        try:
            settlements = await self._execute(deliveries, undecodable)
        except asyncio.CancelledError:
            if running.is_cut_short:
                return
            settlement = self._report.batch_cancelled(deliveries, running.is_timed_out(gathered))
            settlements = [undecodable.get(delivery, settlement) for delivery in deliveries]
        finally:
            for entry in entries:
                self._record.leave(entry)
        if self._watch is not None:
            for settlement in settlements:
                self._watch(settlement, started_at)
        await self._settle(gathered, deliveries, settlements)

    def _alive(self, gathered: Gathered) -> list[Delivery]:
        """Return what is not stale; one that waited while its channel was lost is on its way to somebody again."""
        if not any(delivery.source.is_lost for delivery in gathered.deliveries):
            return gathered.deliveries
        for delivery in gathered.deliveries:
            if delivery.source.is_lost:
                self._record.give_back(delivery)
        return [delivery for delivery in gathered.deliveries if not delivery.source.is_lost]

    async def _settle(self, gathered: Gathered, deliveries: list[Delivery], settlements: list[Settlement]) -> None:
        by_copy = []
        for delivery, settlement in zip(deliveries, settlements, strict=True):
            if self._running.is_cut_short and not isinstance(settlement, Ack):
                continue
            ends = self._settling.settle(delivery, settlement)
            if ends is not None:
                by_copy.append((delivery, ends))
        if by_copy:
            self._running.settle(gathered)
            copying = (self._settling.by_copy(delivery, ends) for delivery, ends in by_copy)
            # All of them to their end, whatever becomes of one: what is raised here is a bug of ours.
            for outcome in await asyncio.gather(*copying, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    def give_back(self, gathered: Gathered) -> None:
        """Settle all of a batch as not processed."""
        gathered.is_closed = True
        for delivery in gathered.deliveries:
            self._record.give_back(delivery)

    def is_stale(self, gathered: Gathered) -> bool:
        """Whether the channels of all of it have ended."""
        return all(delivery.source.is_lost for delivery in gathered.deliveries)

    def key(self, gathered: Gathered) -> int:
        """Return the key of the one message in it."""
        (delivery,) = gathered.deliveries
        return self._record.key(delivery)

    def is_suspect(self, gathered: Gathered) -> bool:
        """Whether something is known against the one message in it."""
        (delivery,) = gathered.deliveries
        return self._record.is_suspect(delivery)

    def clear(self, gathered: Gathered) -> None:
        """Hold the one message in it above suspicion."""
        (delivery,) = gathered.deliveries
        self._record.clear(delivery)


async def _quarantine(delivery: Delivery, convict: Suspect, record: Record, settling: Settling) -> None:
    """Set a message aside that kills; put back into its queue by an operator, it has new tries."""
    stack = record.stack_of(convict)
    if await settling.quarantine(delivery, convict, stack):
        record.clear(delivery)
