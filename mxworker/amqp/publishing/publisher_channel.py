"""The sending side of one channel in confirm mode: from confirm.select until it takes no more publishes.

Publishes are written through the data plane, joined once per loop turn, and entered into the confirm ledger;
`confirm_sink` takes the answers. A channel is replaced, never repaired. It is *retired* when it has ended, when it
nacks (see `confirm_sink`), and when a confirm is late: a late return could otherwise be assigned to a later publish
with the same message id. A retired channel still takes the confirms of its publishes.

This module knows nothing about retries, deadlines, the window and the channel that replaces this one.
"""

from __future__ import annotations

import asyncio

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.protocol.confirms import ConfirmLedger
from mxworker.amqp.protocol.frames import content_pieces, encode_publish, max_properties_bytes
from mxworker.amqp.publishing.publishing import Publishing, State
from mxworker.amqp.publishing.routes import Route
from mxworker.errors import BrokerError, ChannelLost

_REMEMBERED_ROUTES = 1024


class PublisherChannel:
    """Sends publishes by one channel. `open` makes it. `over` resolves once, when it takes no more publishes."""

    def __init__(self, connection: BrokerConnection, channel: AbstractChannel, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.connection = connection
        self.plane = connection.plane
        self.number = number
        self.opened_at = loop.time()
        self.over: asyncio.Future[BrokerError] = loop.create_future()
        """Resolves when the channel has ended or is retired. Never raises."""
        self.is_over = False
        """Whether `over` is resolved. Read it before each publish: a channel that is over confirms no new ones."""
        self.has_given_up = False
        """Whether the wait for a confirm was given up, though the broker may have taken that publish."""
        self.has_nacked = False
        self.ledger: ConfirmLedger[Publishing] = ConfirmLedger()
        self.max_properties_bytes = max_properties_bytes(self.plane.frames.frame_max)
        self._channel = channel
        self._methods: dict[Route, bytes] = {}
        self._pieces: list[bytes] = []
        self._first_unwritten: Publishing | None = None
        self._has_ended = False
        self._emptied = asyncio.Event()
        self._give_up = self.give_up  # one object for all publishes

    @classmethod
    async def open(cls, connection: BrokerConnection) -> PublisherChannel:
        """Open a channel and put it into confirm mode. Raises ChannelLost or ConnectionLost.

        You must register a sink for its answers before it sends.
        """
        channel = await connection.channel()
        try:
            underlay = await channel.get_underlay_channel()
            with library_errors():
                await underlay.confirm_delivery()
        except (BrokerError, asyncio.CancelledError):
            await connection.close_channel(channel)
            raise
        return cls(connection, channel, underlay.number)

    # ---- publishing

    @property
    def takes_more(self) -> bool:
        """Whether a publish may be sent now: the channel is not over, and the connection takes more bytes."""
        return not self.is_over and self.plane.room_bytes > 0

    def send(self, publishing: Publishing) -> None:
        """Write a publish at the end of this loop turn, or now if the channel waits for no confirm.

        Its id must not be in flight here, and its properties must fit. A caller that waits for each confirm before the
        next publish would wait for another turn otherwise. Many publishes in one turn are joined, but for the first.
        """
        is_alone = self.ledger.add(publishing)
        publishing.state = State.SENT
        publishing.give_up = self._give_up
        route, body = publishing.route, publishing.body
        method = self._methods.get(route) or self._method(route)
        content = content_pieces(self.number, publishing.properties, body, self.plane.frames.frame_max)
        if is_alone and self.plane.may_write_now:
            self.plane.write(b"".join((method, *content)))
            return
        if not self._pieces:
            self._first_unwritten = publishing
            self.plane.write_soon(self._take_writes)
        self._pieces.append(method)
        self._pieces += content
        self.plane.room_bytes -= len(publishing.properties) + len(body)

    def _method(self, route: Route) -> bytes:
        if len(self._methods) >= _REMEMBERED_ROUTES:
            self._methods.clear()
        method = encode_publish(self.number, route.exchange.encode(), route.routing_key.encode(), route.mandatory)
        self._methods[route] = method
        return method

    def _take_writes(self) -> bytes:
        if self._has_ended:
            return b""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    # ---- ending

    def give_up(self, publishing: Publishing) -> None:
        """Stop waiting for the confirm of this publish, and retire the channel: see the module's docstring."""
        self.ledger.drop(publishing)
        self.has_given_up = True
        self.retire(ChannelLost("a confirm did not come in time"))
        self.note_settled()

    def retire(self, why: BrokerError) -> None:
        """Take no more publishes. The confirms of those that were sent are still taken."""
        self.is_over = True
        if not self.over.done():
            self.over.set_result(why)

    def end(self, why: BrokerError) -> tuple[list[Publishing], list[Publishing]]:
        """Take the end of the channel. Return the publishes that were never written, and those without a confirm."""
        self._has_ended = True
        self.retire(why)
        unconfirmed = self.ledger.end()
        unwritten: list[Publishing] = []
        if self._pieces and self._first_unwritten is not None:
            first = self._first_unwritten.tag
            unwritten = [publishing for publishing in unconfirmed if publishing.tag >= first]
            del unconfirmed[len(unconfirmed) - len(unwritten) :]
        self._pieces = []
        self._emptied.set()
        return unwritten, unconfirmed

    def note_settled(self) -> None:
        """Note that publishes have left the ledger. A retired channel may be closed after the last of them."""
        if not len(self.ledger):
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until every publish of a retired channel is confirmed or given up, or the channel has ended."""
        if len(self.ledger) and not self._has_ended:
            self._emptied.clear()
            await self._emptied.wait()

    async def close(self) -> None:
        """Close a channel that is `emptied`, within 2 s."""
        await self.connection.close_channel(self._channel)
