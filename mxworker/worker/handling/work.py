"""What a started unit is taken through: on record in the board, executed, settled.

It is on record until it is settled, also while a copy of it is on its way: whatever ends the process meanwhile, its
messages are suspect.

Invariant: exactly one settlement per delivery, except for those cut short by a drain: unless their handler still
succeeds, they stay unsettled, for the broker to deliver again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol, TypeVar

from mxworker.api.attempts import attempt_of
from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery, source_of
from mxworker.api.settlement import Ack, Settlement
from mxworker.board.layout import Word
from mxworker.board.slot import NO_ENTRY, BoardSlot
from mxworker.board.suspects import Suspect
from mxworker.config import DEFAULT_QUARANTINE_AFTER
from mxworker.system.child import ring
from mxworker.system.foreign_errors import is_a
from mxworker.wire.message_keys import MessageKeys
from mxworker.wire.properties import message_id_bytes
from mxworker.worker.handling.batching import Gathered
from mxworker.worker.handling.decode_budget import Unprocessed
from mxworker.worker.handling.endings import Again, Dead, Later
from mxworker.worker.handling.execution import Execute, ExecuteBatch, Undecodable
from mxworker.worker.handling.report import ACK, Report
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
        self,
        handler: Handler,
        index: int,
        slot: BoardSlot,
        quarantine_after: int = DEFAULT_QUARANTINE_AFTER,
        call_master: Callable[[], None] = ring,
    ) -> None:
        """`index` is the handler's place in the board's directory; `call_master` makes the master look at the board."""
        self.words = slot.words
        self.leave = slot.leave
        self._slot = slot
        self._index = index
        self._keys = MessageKeys(slot.secret, handler.queue.name)
        self._max_attempts = handler.max_attempts
        self._suspects = slot.suspects
        self._quarantine_after = quarantine_after
        self._call_master = call_master

    def enter(self, delivery: Delivery) -> int:
        """Record a delivery as started; the entry is for `leave`."""
        message_id = message_id_bytes(delivery.raw_properties)
        attempt = attempt_of(delivery, self._max_attempts)
        key = self._keys.key(delivery.raw_properties, delivery.raw_route, delivery.body)
        return self._slot.enter(self._index, delivery.delivery_tag, attempt, message_id, time.monotonic_ns(), key)

    @contextmanager
    def entered(self, deliveries: Sequence[Delivery]) -> Iterator[dict[Delivery, int]]:
        """Have deliveries on record, with their entries by delivery; one that is taken out there has left already.

        What cannot be put on record is let through all the same.
        """
        entries = dict.fromkeys(deliveries, NO_ENTRY)
        try:
            with suppress(Exception):
                for delivery in deliveries:
                    entries[delivery] = self.enter(delivery)
            yield entries
        finally:
            for entry in entries.values():
                self.leave(entry)

    def give_back(self, delivery: Delivery) -> None:
        """Settle a delivery as not processed, and count it when it was stale."""
        if not source_of(delivery).give_back(delivery):
            self.words[Word.STALE] += 1

    # ---- suspects

    def key(self, delivery: Delivery) -> int:
        """Return the key of a message."""
        return self._keys.key(delivery.raw_properties, delivery.raw_route, delivery.body)

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
        """Hold a message above suspicion, for it came to its end and this process lives; unless it is stale by now."""
        if delivery.is_stale:
            return
        key = self.key(delivery)
        suspect = self._suspects.find(key)
        if suspect is not None:
            self._suspects.forget(key, suspect.death)
            self._slot.ask_to_clear(key, suspect.death)
            self._call_master()


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
        """Execute and settle a delivery; return False when it was given back unprocessed."""
        record = self._record
        running = self._running
        if delivery.redelivered and (convict := record.conviction(delivery)) is not None:
            running.settle(delivery)
            await _quarantine(delivery, convict, record, self._settling)
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
        run_next: Callable[[Gathered], None],
    ) -> None:
        """`run_next` lets a batch wait before all others."""
        self._record = record
        self._execute = execute
        self._report = report
        self._settling = settling
        self._running = running
        self._watch = watch
        self._run_next = run_next
        self._rescue = Rescue(report, settling, running)

    async def run(self, gathered: Gathered) -> bool:
        """Execute a batch and settle all that is in it; return False when it was given back unprocessed."""
        gathered.is_closed = True
        deliveries = self._alive(gathered)
        if not deliveries:
            return False
        running = self._running
        convict = self._record.conviction(deliveries[0]) if len(deliveries) == 1 else None
        if convict is not None:
            running.settle(gathered)
            await _quarantine(deliveries[0], convict, self._record, self._settling)
            return True
        started_at = time.monotonic()
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
            if self._watch is not None:
                for settlement in settlements:
                    self._watch(settlement, started_at)
            await self._settle(gathered, deliveries, settlements, entries)
            return True

    def _leave(self, gathered: Gathered, rest: list[Delivery], entries: dict[Delivery, int]) -> None:
        """Make the next batch of what a batch had no room for."""
        left = set(rest)
        gathered.deliveries = [delivery for delivery in gathered.deliveries if delivery not in left]
        for delivery in rest:
            self._record.leave(entries.pop(delivery))
        self._run_next(Gathered.of(rest))

    async def rescue(self, gathered: Gathered, error: BaseException) -> None:
        """Settle what `run` has left unsettled of a batch when it raised `error`."""
        self._running.settle(gathered)
        if self._running.is_cut_short:
            return
        left = [delivery for delivery in gathered.deliveries if source_of(delivery).holds(delivery)]
        with self._record.entered(left) as entries:
            if is_a(error, GeneratorExit):
                await self._settle(gathered, left, [self._report.failed(error)] * len(left), entries)
            else:
                await asyncio.gather(*(self._rescue.one(delivery, error) for delivery in left))

    def _alive(self, gathered: Gathered) -> list[Delivery]:
        """Return what is not stale; one that waited while its channel was lost is on its way to somebody again."""
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
        """Settle each of a batch, whatever becomes of the others; what is settled leaves the record."""
        alike = Counter(map(id, settlements))
        acked, settle = self._settling.acked, self._settling.settle
        settled = []
        slow = []
        for delivery, settlement in zip(deliveries, settlements, strict=True):
            if self._running.is_cut_short and not isinstance(settlement, Ack):
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
            for delivery in settled:  # else they leave with the batch, at once
                self._record.leave(entries.pop(delivery))
            self._running.settle(gathered)
            await asyncio.gather(*slow)

    async def _copied(self, delivery: Delivery, ends: Again | Later | Dead) -> None:
        try:
            await self._settling.by_copy(delivery, ends)
        except BaseException as error:
            if self._rescue.is_cut(error):
                raise
            await self._rescue.one(delivery, error)

    def give_back(self, gathered: Gathered) -> None:
        """Settle all of a batch as not processed."""
        gathered.is_closed = True
        for delivery in gathered.deliveries:
            self._record.give_back(delivery)

    def is_stale(self, gathered: Gathered) -> bool:
        """Whether the channels of all of it have ended."""
        return all(delivery.is_stale for delivery in gathered.deliveries)

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
