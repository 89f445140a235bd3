"""The exchanges to which a publisher may send now.

A publish to an exchange that is missing (404), or that we may not write to (403), ends its channel and leaves the fate
of the channel's other publishes unknown. So an exchange is checked once per connection, before its first publish, and
an exchange that was refused is not used again for a while.

This module knows nothing about publishing channels, deadlines, the window and the publishes that wait for the answer.
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
_REST_S = 0.2  # before an exchange is checked again when there was no answer
_REFUSED_FOR_S = 5.0
_LIBRARY_NAME_CHARACTERS = 127

Answered = Callable[[str, PublishError | None], None]
"""Takes the exchange that was checked, and the error of publishes to it; None when it exists or is not known."""


class Exchanges:
    """The state of exchanges. Publishes to `known` exchanges are sent at once."""

    def __init__(self) -> None:
        self.known: set[str] = {""}
        self._connection: BrokerConnection | None = None  # the connection on which they were checked
        self._refused: dict[str, tuple[float, PublishError]] = {}  # until which loop time, and why
        self._tasks: set[asyncio.Task[None]] = set()

    def use(self, connection: BrokerConnection) -> None:
        """Forget all exchanges when this is another connection, since it may lead to another broker."""
        if connection is not self._connection:
            self._connection = connection
            self.known = {""}
            self._refused.clear()

    def note_refused(self, exchange: str, error: PublishError, is_lasting: bool) -> None:
        """Note that the broker closed a channel because of this exchange; `is_lasting` when it would do so again."""
        self.known.discard(exchange)
        if is_lasting:
            self._refused[exchange] = asyncio.get_running_loop().time() + _REFUSED_FOR_S, error

    def refusal(self, exchange: str) -> PublishError | None:
        """Return the error of publishes to an exchange that was refused in the last 5 s; None otherwise."""
        until, error = self._refused.get(exchange, (0.0, None))
        return error if error is not None and asyncio.get_running_loop().time() < until else None

    def look(self, exchange: str, connection: BrokerConnection, answered: Answered) -> None:
        """Check whether an exchange exists. `answered` is called later, once, also when there is no answer."""
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
            except TopologyRefused as error:  # the first line is the broker's text, the rest is about queues
                missing = Unroutable(str(error).splitlines()[0])
            finally:
                self._own(connection.close_channel(channel))
        except (BrokerError, TimeoutError):  # a later check, on this or the next connection, may succeed
            await asyncio.sleep(_REST_S)
        finally:
            # Without an await after `known` changed, or new publishes would overtake those that waited.
            answered(exchange, missing)

    def _own(self, duty: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(duty)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all checks."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _find(channel: AbstractChannel, exchange: str) -> None:
    """Check that an exchange exists. Raises TopologyRefused when it does not, ChannelLost or ConnectionLost.

    An exchange whose name the library cannot send is assumed to exist.
    """
    if SENDABLE_NAME.fullmatch(exchange) and len(exchange) <= _LIBRARY_NAME_CHARACTERS:
        underlay = await channel.get_underlay_channel()
        with library_errors():
            await underlay.exchange_declare(exchange, passive=True)
