"""Which exchanges a publisher may send to now.

A publish to an exchange that is missing (404), or that we may not write to (403), ends its channel and leaves the fate
of its neighbours unknown. So an exchange is looked for, once per connection, before its first publish, and one that was
refused is not tried again for a while.

Must not know: channels that publish, deadlines, the window, who waits for the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.api.queues import SENDABLE_NAME
from mxworker.errors import BrokerError, PublishError, TopologyRefused, Unroutable

_LOOK_DEADLINE_S = 10.0
_REST_S = 0.2  # before an exchange is looked for again when nobody could say whether it exists
_REFUSED_FOR_S = 5.0
_LIBRARY_NAME_CHARACTERS = 127

Answered = Callable[[str, PublishError | None], None]
"""Takes the exchange that was looked for, and what a publish to it ends in when it is known to be missing."""


class Exchanges:
    """What is known about exchanges. `known` ones can be sent to at once."""

    def __init__(self) -> None:
        self.known: set[str] = {""}
        self._connection: BrokerConnection | None = None  # where they are known
        self._refused: dict[str, tuple[float, PublishError]] = {}  # until which loop time, and why
        self._tasks: set[asyncio.Task[None]] = set()

    def use(self, connection: BrokerConnection) -> None:
        """Forget everything when this is another connection: it may lead to another broker."""
        if connection is not self._connection:
            self._connection = connection
            self.known = {""}
            self._refused.clear()

    def note_refused(self, exchange: str, error: PublishError, is_lasting: bool) -> None:
        """Note that the broker closed a channel over this exchange; `is_lasting` when it would do so again."""
        self.known.discard(exchange)
        if is_lasting:
            self._refused[exchange] = asyncio.get_running_loop().time() + _REFUSED_FOR_S, error

    def refusal(self, exchange: str) -> PublishError | None:
        """Return what a publish to an exchange ends in that was refused a short while ago."""
        until, error = self._refused.get(exchange, (0.0, None))
        return error if error is not None and asyncio.get_running_loop().time() < until else None

    def look(self, exchange: str, connection: BrokerConnection, answered: Answered) -> None:
        """Find out whether an exchange exists, and have `answered` called: later, once, and even when nobody knows."""
        self._own(self._look(exchange, connection, answered))

    async def _look(self, exchange: str, connection: BrokerConnection, answered: Answered) -> None:
        missing: Unroutable | None = None
        try:
            async with asyncio.timeout(_LOOK_DEADLINE_S):
                channel = await connection.channel()
            try:
                async with asyncio.timeout(_LOOK_DEADLINE_S):
                    await _find(channel, exchange)
                if connection is self._connection:
                    self.known.add(exchange)
            except TopologyRefused as error:  # its first line is the broker's word, the rest is about queues
                missing = Unroutable(str(error).splitlines()[0])
            finally:
                self._own(connection.close_channel(channel))
        except (BrokerError, TimeoutError):  # the next connection may know better, or this one a little later
            await asyncio.sleep(_REST_S)
        finally:
            # In one step with `known`, or publishes that come now would overtake those that waited.
            answered(exchange, missing)

    def _own(self, duty: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(duty)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Look for nothing more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _find(channel: AbstractChannel, exchange: str) -> None:
    """Check that an exchange exists. Raises TopologyRefused when it does not, ChannelLost or ConnectionLost.

    One whose name the library cannot send is taken for existing.
    """
    if SENDABLE_NAME.fullmatch(exchange) and len(exchange) <= _LIBRARY_NAME_CHARACTERS:
        underlay = await channel.get_underlay_channel()
        with library_errors():
            await underlay.exchange_declare(exchange, passive=True)
