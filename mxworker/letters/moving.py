"""Put letters into a queue: publish a copy of each, wait for its confirm, and settle the letter where it came from.

A letter that was held is settled by its ack. It is never lost, since it is acked only after its copy is confirmed. It
is in both queues when the command, its connection or the broker ends between confirm and ack. At most `AT_ONCE` copies
are without a confirm at any time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.copying import copy_of
from mxworker.api.receipts import Receipt
from mxworker.errors import BrokerError, DecodeError, PublishError, PublishUnconfirmed
from mxworker.letters.letter import Original

AT_ONCE = 32
BYTES_AT_ONCE = 16 * 1024 * 1024

Headers = Callable[[Original], Mapping[str, Any]]
Moved = Callable[[Original], None]
Settle = Callable[[], bool]
"""Settles a letter where it came from; returns False when that is not possible any more."""


@dataclass(slots=True)
class Moves:
    """What has become of the letters.

    `in_doubt` letters may be in both queues: their confirm or the place for their ack was lost. Of `uncopied` ones no
    copy can be made, so they stay. `stopped` says why not all were moved.
    """

    moved: int = 0
    in_doubt: int = 0
    uncopied: int = 0
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """Where letters go, and how.

    `headers` are added to the copy of a letter. `on_moved` is called when the copy is confirmed, before the ack. When
    `why_stop` returns a reason, no further letter is sent. `rate` is the most letters a second.
    """

    target: str
    headers: Headers = lambda _: {}
    on_moved: Moved = lambda _: None
    why_stop: Callable[[], str | None] = lambda: None
    rate: float | None = None


class Move:
    """Puts letters into a queue, once, in order."""

    def __init__(self, publisher: Publisher, way: Way, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises BrokerError when no further letter must be sent, because none could be settled."""
        self._publisher = publisher
        self._way = way
        self._check = check
        self._moves = Moves()
        self._open: deque[tuple[Receipt, Original, Settle]] = deque()  # at most AT_ONCE
        self._open_bytes = 0
        self._failure: Exception | None = None

    async def run(self, letters: Iterable[tuple[Original, Settle]]) -> Moves:
        """Move the letters until one cannot be moved. Raises what `on_moved` raised, when all open moves have ended."""
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        for original, settle in letters:
            if self._way.rate:
                await self._end_done(until=due_at)
                due_at = max(due_at + 1 / self._way.rate, loop.time() - 1)
            while self._open and (len(self._open) >= AT_ONCE or self._open_bytes >= BYTES_AT_ONCE):
                await self._end_first()
            self._look_for_stop()
            if self._moves.stopped is not None:
                break
            self._send(original, settle)
        while self._open:
            await self._end_first()
        if self._failure is not None:
            raise self._failure
        return self._moves

    def _look_for_stop(self) -> None:
        if self._moves.stopped is None:
            try:
                self._check()
                self._moves.stopped = self._way.why_stop()
            except BrokerError as error:
                self._moves.stopped = str(error)

    def _send(self, original: Original, settle: Settle) -> None:
        try:
            copy = copy_of(*original, self._way.headers(original))
            receipt = self._publisher.publish_nowait(copy, routing_key=self._way.target)
        except DecodeError:
            self._moves.uncopied += 1
        except PublishError as error:
            self._moves.stopped = str(error)
        else:
            self._open.append((receipt, original, settle))
            self._open_bytes += len(original.body)

    async def _end_done(self, until: float) -> None:
        """End the publishes that are confirmed, until it is time for the next one."""
        loop = asyncio.get_running_loop()
        while (left_s := until - loop.time()) > 0:
            if self._open and self._open[0][0].done():
                await self._end_first()
            else:
                await asyncio.sleep(min(left_s, 0.05))

    async def _end_first(self) -> None:
        """Wait for the outcome of the oldest publish, and settle its letter when it is confirmed."""
        receipt, original, settle = self._open.popleft()
        self._open_bytes -= len(original.body)
        try:
            await receipt
        except PublishError as error:
            self._moves.in_doubt += isinstance(error, PublishUnconfirmed)
            self._moves.stopped = self._moves.stopped or str(error)
            return
        try:
            self._way.on_moved(original)
        except Exception as error:  # the copy is confirmed, so the letter has to be settled
            self._failure = error
            self._moves.stopped = self._moves.stopped or str(error)
        if settle():
            self._moves.moved += 1
        else:
            self._moves.in_doubt += 1
            self._moves.stopped = self._moves.stopped or "the connection was lost, so the letters went back"
