"""Take the letters of a plan out of their queue, by moving them to another one.

All letters are held while the chosen ones are moved, and the others are given back at the end. That keeps their order
(see `holding`), and shows letters that come back dead meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.api.delivery import Delivery
from mxworker.brokers import Brokers
from mxworker.letters.connecting import publishing
from mxworker.letters.holding import Hold, depth
from mxworker.letters.letter import Letter, letter_of
from mxworker.letters.lock import locked
from mxworker.letters.moving import Move, Moves, Way
from mxworker.letters.plan import Plan
from mxworker.letters.spool import Spool


@dataclass(frozen=True, slots=True)
class Source:
    """Where letters are taken from, and the brokers to reach within `wait_s` seconds for a second connection."""

    connection: BrokerConnection
    brokers: Brokers
    name: str
    wait_s: float


async def move(source: Source, plan: Plan, way: Way, is_back: Callable[[Letter], bool] | None = None) -> Moves:
    """Move the chosen letters; `plan.left` then has how many were not there any more. Raises BrokerError.

    With `is_back`, which tells whether a letter that arrives meanwhile was moved and has come back, moving stops then.
    """
    with Collected(plan, is_back) as collected:
        async with locked(source.connection, source.name):
            there = await depth(source.connection, source.name)
            hold = Hold(source.connection, source.name, collected.take)
            try:
                await hold.take(lambda: hold.taken >= there)
                collected.complete()
                async with publishing(source.brokers, source.wait_s) as publisher:
                    way = replace(way, why_stop=_first(way.why_stop, collected.why_stop))
                    watching = asyncio.create_task(hold.watch()) if is_back is not None else None
                    try:
                        return await Move(publisher, way, hold.check).run(hold.settled(collected.spool))
                    finally:
                        if watching is not None:
                            watching.cancel()
            finally:
                await hold.close()


class Collected:
    """Collects the chosen letters among those that come."""

    def __init__(self, plan: Plan, is_back: Callable[[Letter], bool] | None = None) -> None:
        self.spool = Spool()
        self._plan = plan
        self._is_back = is_back
        self._came_back: Letter | None = None
        self._is_complete = False

    def __enter__(self) -> Collected:
        return self

    def __exit__(self, *_: object) -> None:
        self.spool.close()

    def take(self, delivery: Delivery) -> None:
        """Collect a letter if it is chosen, and look whether it has come back otherwise."""
        letter, original = letter_of(delivery)
        if self._is_back is not None and self._is_back(letter):
            self._came_back = letter
        elif not self._is_complete and self._plan.takes(letter.key):
            self.spool.add(original, delivery)

    def complete(self) -> None:
        """Collect no further letters, because those that are collected are being moved."""
        self._is_complete = True

    def why_stop(self) -> str | None:
        """Return which letter has come back, None while none has."""
        if self._came_back is None:
            return None
        return f"letter {self._came_back.key} has come back dead"


def _first(*reasons: Callable[[], str | None]) -> Callable[[], str | None]:
    return lambda: next((why for reason in reasons if (why := reason()) is not None), None)
