"""Put letters into a queue: publish a copy of each, wait for its confirm, and settle the letter where it came from.

A letter that was held is settled by its ack. It is never lost, since it is acked only after its copy is confirmed. It
is in both queues when the command, its connection or the broker ends between confirm and ack. At most `AT_ONCE` letters
are between their copy and their ack at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mxworker.amqp.publishing.open_publishes import OpenPublishes
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.copying import copy_of
from mxworker.errors import BrokerError, DecodeError, PublishError, PublishUnconfirmed
from mxworker.letters.letter import Original

AT_ONCE = 32
BYTES_AT_ONCE = 16 * 1024 * 1024

Headers = Callable[[Original], Mapping[str, Any]]
Moved = Callable[[Original], None]
Settle = Callable[[], bool]
"""Settles a letter where it came from; returns False when that is not possible any more."""
_Open = OpenPublishes[tuple[Original, Settle]]


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
        self._failure: Exception | None = None
        self._has_settled = False

    async def run(self, letters: Iterable[tuple[Original, Settle]]) -> Moves:
        """Move the letters until one cannot be moved. Raises what `on_moved` raised, when all open moves have ended."""
        publishes = _Open(AT_ONCE, BYTES_AT_ONCE, self._way.rate, self._ended)
        for letter in letters:
            await publishes.turn()
            if self._has_settled:
                self._has_settled = False
                await asyncio.sleep(0)  # until the acks are written, which is at the end of a turn of the loop
            self._look_for_stop()
            if self._moves.stopped is not None:
                break
            self._send(letter, publishes)
        await publishes.end_all()
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

    def _send(self, letter: tuple[Original, Settle], publishes: _Open) -> None:
        original, _ = letter
        try:
            copy = copy_of(*original, self._way.headers(original))
            receipt = self._publisher.publish_nowait(copy, routing_key=self._way.target)
        except DecodeError:
            self._moves.uncopied += 1
        except PublishError as error:
            self._moves.stopped = str(error)
        else:
            publishes.add(receipt, len(original.body), letter)

    def _ended(self, letter: tuple[Original, Settle], error: PublishError | None) -> None:
        """Settle a letter whose copy is confirmed."""
        original, settle = letter
        if error is not None:
            self._moves.in_doubt += isinstance(error, PublishUnconfirmed)
            self._moves.stopped = self._moves.stopped or str(error)
            return
        try:
            self._way.on_moved(original)
        except Exception as error:  # the copy is confirmed, so the letter has to be settled
            self._failure = error
            self._moves.stopped = self._moves.stopped or str(error)
        self._has_settled = True
        if settle():
            self._moves.moved += 1
        else:
            self._moves.in_doubt += 1
            self._moves.stopped = self._moves.stopped or "the connection was lost, so the letters went back"
