"""Which exchanges a publisher may send to now.

A publish to an exchange that is missing (404), or that we may not write to (403), ends its channel and leaves the fate
of its neighbours unknown. So an exchange is looked for, once per connection, before its first publish, and one that was
refused is not tried again for a while.

Must not know: lanes, deadlines, the window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.api.queues import SENDABLE_NAME
from mxworker.errors import BrokerError, PublishError, TopologyRefused, Unroutable

_LOOK_DEADLINE_S = 10.0
_REST_S = 0.2  # before an exchange is looked for again when nobody could say whether it exists
_REFUSED_FOR_S = 5.0
_LIBRARY_NAME_CHARACTERS = 127


class Exchanges:
    """What is known about exchanges. `known` ones can be sent to at once."""

    def __init__(
        self,
        put_back: Callable[[Sequence[Publishing]], None],
        refuse_soon: Callable[[Publishing, PublishError], None],
        own: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Say what to do with what was held, and who runs a coroutine as a task that ends with the publisher."""
        self.known: set[str] = {""}
        self._connection: BrokerConnection | None = None  # where they are known
        self._refused: dict[str, tuple[float, PublishError]] = {}  # until which loop time, and why
        self._waiting: dict[str, list[Publishing]] = {}  # bound: the publisher's window
        self._put_back = put_back
        self._refuse_soon = refuse_soon
        self._own = own

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

    def hold(self, publishing: Publishing, connection: BrokerConnection) -> None:
        """Keep a publish to an exchange that is not known until somebody has looked; refuse it when that is known."""
        exchange = publishing.route.exchange
        until, why = self._refused.get(exchange, (0.0, None))
        if why is not None and asyncio.get_running_loop().time() < until:
            self._refuse_soon(publishing, why)
            return
        waiting = self._waiting.setdefault(exchange, [])
        waiting.append(publishing)
        if len(waiting) == 1:
            self._own(self._look(exchange, connection))

    async def _look(self, exchange: str, connection: BrokerConnection) -> None:
        """Find out whether an exchange exists, on a channel of its own, and let go what waits for the answer."""
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
            waiting = self._waiting.pop(exchange)
            if missing is None:
                self._put_back(waiting)
            else:
                for publishing in waiting:
                    self._refuse_soon(publishing, missing)


async def _find(channel: AbstractChannel, exchange: str) -> None:
    """Check that an exchange exists. Raises TopologyRefused when it does not, ChannelLost or ConnectionLost.

    One whose name the library cannot send is taken for existing.
    """
    if SENDABLE_NAME.fullmatch(exchange) and len(exchange) <= _LIBRARY_NAME_CHARACTERS:
        underlay = await channel.get_underlay_channel()
        with library_errors():
            await underlay.exchange_declare(exchange, passive=True)
