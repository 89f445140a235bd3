"""One channel in confirm mode, from confirm.select to its end.

Writes publishes through the data plane, joined once per loop turn, and hears their confirms and returns. It is
replaced, never repaired: when a confirm stays away too long the channel is *retired*, so that a late return cannot be
taken for one of a later publish with the same message id.

It is retired too when it nacks, once it is old enough. RabbitMQ asks the leader of a quorum queue at a channel's first
publish to that queue; between the death of a leader and the next one's election it asks the dead node, takes that for a
refusal, and nacks every publish of the channel until that node is back (rabbit_fifo_client.erl, enqueue/3; seen with
3.10: 20 s without one confirm, while a new channel got them at once). Its nacks look like those of a full queue, so
there the channels are replaced as well, in vain but no more often than once in a few seconds.

Must not know: retries, deadlines, the window, what replaces it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.protocol.confirms import ConfirmLedger
from mxworker.amqp.protocol.frames import content_pieces, encode_publish, max_properties_bytes
from mxworker.amqp.publishing.publishing import Publishing, Stage
from mxworker.amqp.publishing.routes import Route
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost
from mxworker.wire.properties import message_id_bytes

_REMEMBERED_ROUTES = 1024


class Outcomes(Protocol):
    """Who is told what became of the publishes of a channel. Called from inside the read: return fast, never raise."""

    def confirmed(self, publishings: list[Publishing]) -> None:
        """Take what the broker confirmed; what it had returned before has a `return_reason`."""

    def nacked(self, publishings: list[Publishing]) -> None:
        """Take what the broker nacked."""

    def unsent(self, publishings: list[Publishing]) -> None:
        """Take what was given to the channel and not written before it ended."""

    def lost(self, publishings: list[Publishing], error: ChannelLost | ConnectionLost, is_complete: bool) -> None:
        """Take what was unconfirmed when the channel ended; `is_complete` when none had been given up before."""

    def has_room(self) -> None:
        """Take the news that the connection takes publishes again."""


class PublisherChannel:
    """One channel in confirm mode. Made by `open`; `over` resolves once, when it takes no more publishes."""

    def __init__(
        self,
        connection: BrokerConnection,
        channel: AbstractChannel,
        number: int,
        outcomes: Outcomes,
        patience_s: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.connection = connection
        self.over: asyncio.Future[BrokerError] = loop.create_future()
        """Resolves, never raises, when the channel has ended or is retired."""
        self.is_over = False
        """The same, to be asked before each publish: one that is sent by a channel that is over gets no confirm."""
        self.has_nacked = False
        self.opened_at = loop.time()
        self.plane = connection.plane
        self.max_properties_bytes = max_properties_bytes(self.plane.frames.frame_max)
        self._channel = channel
        self._number = number
        self._outcomes = outcomes
        self._nacks_until = self.opened_at + patience_s
        self._ledger: ConfirmLedger[Publishing] = ConfirmLedger()
        self._methods: dict[Route, bytes] = {}
        self._pieces: list[bytes] = []
        self._first_unwritten: Publishing | None = None
        self._has_given_up = False
        self._has_ended = False
        self._emptied = asyncio.Event()

    @classmethod
    async def open(cls, connection: BrokerConnection, outcomes: Outcomes, patience_s: float) -> PublisherChannel:
        """Open a channel and put it into confirm mode. Raises ChannelLost or ConnectionLost.

        It may nack for `patience_s` seconds before that retires it.
        """
        channel = await connection.channel()
        try:
            underlay = await channel.get_underlay_channel()
            with library_errors():
                await underlay.confirm_delivery()
        except (BrokerError, asyncio.CancelledError):
            await connection.close_channel(channel)
            raise
        publisher = cls(connection, channel, underlay.number, outcomes, patience_s)
        connection.plane.register_publisher(underlay.number, publisher, outcomes.has_room)
        return publisher

    # ---- publishing

    def has_id(self, message_id: bytes) -> bool:
        """Whether a publish with this message id is in flight, so that another would have to wait for it."""
        return self._ledger.has_id(message_id)

    def send(self, publishing: Publishing) -> None:
        """Write a publish at the end of this loop turn. Its id must not be in flight here, its properties must fit."""
        self._ledger.add(publishing)
        publishing.stage = Stage.SENT
        publishing.give_up = self._give_up
        if not self._pieces:
            self._first_unwritten = publishing
            self.plane.write_soon(self._take_writes)
        self._pieces.append(self._methods.get(publishing.route) or self._method(publishing.route))
        body = publishing.body
        self._pieces += content_pieces(self._number, publishing.properties, body, self.plane.frames.frame_max)
        self.plane.room_bytes -= len(publishing.properties) + len(body)

    def _method(self, route: Route) -> bytes:
        if len(self._methods) >= _REMEMBERED_ROUTES:
            self._methods.clear()
        method = encode_publish(self._number, route.exchange.encode(), route.routing_key.encode(), route.mandatory)
        self._methods[route] = method
        return method

    def _take_writes(self) -> bytes:
        if self._has_ended:
            return b""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def _give_up(self, publishing: Publishing) -> None:
        """Wait for this confirm no longer, and take no more publishes: see the module's text."""
        self._ledger.drop(publishing)
        self._has_given_up = True
        self._retire(ChannelLost("a confirm did not come in time"))
        self._note_emptied()

    # ---- called from inside the read, see reader.PublisherSink

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        """Take a confirm."""
        settled = self._ledger.settle(tag, multiple)
        if settled:
            if is_ack:
                self._outcomes.confirmed(settled)
            else:
                self.has_nacked = True
                self._outcomes.nacked(settled)
                if self._loop.time() >= self._nacks_until:
                    self._retire(ChannelLost("the broker nacks what it publishes"))
            self._note_emptied()

    def on_return(self, reply: tuple[int, str], properties: bytes) -> None:
        """Take a returned message; its confirm follows and settles it."""
        code, text = reply
        self._ledger.returned(message_id_bytes(properties), f"{code} {text}")

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        """Take the end of the channel."""
        self._has_ended = True
        self._retire(error)
        unconfirmed = self._ledger.end()
        if self._pieces and self._first_unwritten is not None:
            first = self._first_unwritten.tag
            unsent = [publishing for publishing in unconfirmed if publishing.tag >= first]
            unconfirmed = unconfirmed[: len(unconfirmed) - len(unsent)]
            self._outcomes.unsent(unsent)
        self._pieces = []
        if unconfirmed:
            self._outcomes.lost(unconfirmed, error, is_complete=not self._has_given_up)
        self._emptied.set()

    def _retire(self, why: ChannelLost | ConnectionLost) -> None:
        self.is_over = True
        if not self.over.done():
            self.over.set_result(why)

    def _note_emptied(self) -> None:
        if not len(self._ledger):
            self._emptied.set()

    # ---- ending

    async def emptied(self) -> None:
        """Wait until every publish of a retired channel is confirmed or given up, or the channel has ended."""
        if len(self._ledger) and not self._has_ended:
            self._emptied.clear()
            await self._emptied.wait()

    async def close(self) -> None:
        """Write what is waiting and close the channel within 2 s; what is still unconfirmed is lost."""
        self.plane.write(self._take_writes())
        self._retire(ChannelLost("closed"))
        await self.connection.close_channel(self._channel)
        if not self._has_ended:
            self.on_end(ChannelLost("closed"))
