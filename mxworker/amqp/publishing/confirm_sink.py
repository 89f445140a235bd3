"""The receiving side of one publisher channel: it passes confirms, nacks, returns and the channel's end to the outbox.

A channel that nacks is retired, once it is old enough. RabbitMQ asks the leader of a quorum queue at a channel's first
publish to that queue. Between the death of a leader and the election of the next, RabbitMQ asks the dead node, takes
the missing answer for a refusal, and nacks every publish of the channel until that node is back
(rabbit_fifo_client.erl, enqueue/3; seen with 3.10: 20 s without one confirm, while a new channel got confirms at once).
The nacks of a full queue look the same, so its channels are replaced, too. That is useless, but it happens only once in
a few seconds.

The methods are called while the socket is read, so they return fast and never raise.
"""

from __future__ import annotations

import asyncio

from mxworker.amqp.publishing.close_reason import is_refused_as_a_whole, refused_exchange, refused_publishes
from mxworker.amqp.publishing.exchanges import Exchanges
from mxworker.amqp.publishing.outbox import Outbox
from mxworker.amqp.publishing.publisher_channel import PublisherChannel
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.errors import ChannelLost, ConnectionLost
from mxworker.wire.properties import message_id_bytes


class ConfirmSink:
    """Takes the broker's answers on one channel; see `reader.PublisherSink`."""

    def __init__(self, channel: PublisherChannel, outbox: Outbox, exchanges: Exchanges, nacks_for_s: float) -> None:
        """Prepare. A nack retires the channel only when the channel is older than `nacks_for_s` seconds."""
        self._channel = channel
        self._ledger = channel.ledger
        self._outbox = outbox
        self._exchanges = exchanges
        self._loop = asyncio.get_running_loop()
        self._nacks_until = channel.opened_at + nacks_for_s

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        """Take a confirm or nack of the broker."""
        settled = self._ledger.settle(tag, multiple)
        if not settled:
            return
        if is_ack:
            self._outbox.confirmed(settled)
        else:
            self._nacked(settled)
        if self._channel.is_over:
            self._channel.note_settled()

    def _nacked(self, publishings: list[Publishing]) -> None:
        self._channel.has_nacked = True
        self._outbox.nacked(publishings)
        if self._loop.time() >= self._nacks_until:
            self._channel.retire(ChannelLost("the broker nacks what it publishes"))

    def on_return(self, reply: tuple[int, str], properties: bytes) -> None:
        """Take a returned message. Its confirm follows and settles it."""
        code, text = reply
        self._ledger.returned(message_id_bytes(properties), f"{code} {text}")

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        """Take the end of the channel. Only the publish that ended it is refused; the fate of the others is unknown."""
        unwritten, unconfirmed = self._channel.end(error)
        exchange = refused_exchange(error)
        if exchange is not None:
            self._exchanges.note_refused(*exchange, is_lasting=is_refused_as_a_whole(error))
        refused, refusal = refused_publishes(unconfirmed, error, is_complete=not self._channel.has_given_up)
        if refusal is not None:
            self._outbox.refused(refused, refusal)
        certain = set(refused)
        self._outbox.lost([publishing for publishing in unconfirmed if publishing not in certain], str(error))
        self._outbox.unwritten(unwritten)
