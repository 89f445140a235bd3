"""Keeps settled deliveries on the board until their settlements have left the process.

A settlement is written at the end of the present turn of the event loop (see `amqp.consuming.subscription`), and uvloop
sends what was written at the end of the turn after that. If the process dies before, the broker redelivers the message,
so the message must be a suspect until then. A task that a handler has left behind may end the process in that time,
and would end every process that gets the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mxworker.board.slot import BoardSlot

TURNS = 2
"""The turns of the event loop after which the settlement of a delivery was sent, if the socket took it."""


class Unsent:
    """The places on the board of one handler's deliveries that have ended in the last turns of the event loop.

    Bounded by the handler's concurrency for each turn.
    """

    def __init__(self, slot: BoardSlot, loop: asyncio.AbstractEventLoop) -> None:
        self._slot = slot
        self._loop = loop
        self._settled: list[int] = []
        self._written: list[int] = []
        self._is_scheduled = False

    def leave(self, place: int) -> None:
        """Take a delivery off the board when its settlement was sent; `place` is what `BoardSlot.enter` returned.

        Call when the delivery was settled, so that this callback comes after the one that writes the settlement.
        """
        self._settled.append(place)
        if not self._is_scheduled:
            self._schedule()

    def leave_all(self, places: Iterable[int]) -> None:
        """Do as `leave` does, for several deliveries."""
        self._settled.extend(places)
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        sent, self._written = self._written, self._settled
        self._slot.leave(*sent)
        sent.clear()
        self._settled = sent
        self._is_scheduled = False
        if self._written:
            self._schedule()
