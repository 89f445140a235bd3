"""The publisher channels of one publisher, each replaced whenever it ends, and which publish takes which.

All publishes of one exchange and routing key take the same lane, so that they arrive in their order. A lane's channel
is replaced on every loss and when it is retired; the retired one lives on until its last confirm came.

What must not reach the wire is stopped here: a publish to an exchange that is missing would end the channel for its
neighbours (404), so an exchange is looked for, once per connection, before its first publish.

Must not know: deadlines, the window, when to try again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any

from mxworker.amqp import topology
from mxworker.amqp.connection import BrokerConnection, Link
from mxworker.amqp.outbox import Outbox
from mxworker.amqp.publisher_channel import PublisherChannel
from mxworker.amqp.publishing import Publishing, Stage
from mxworker.backoff import RECONNECT, next_attempt
from mxworker.errors import (
    BrokerError,
    ChannelLost,
    ConnectionLost,
    MessageTooLarge,
    PublishError,
    PublishNacked,
    TopologyRefused,
    Unroutable,
)

log = logging.getLogger(__name__)

_OPEN_DEADLINE_S = 10.0
_ACCESS_REFUSED = 403
_NOT_FOUND = 404
# What RabbitMQ 3.10 to 4.x says when it closes a channel over a publish.
_NAMED_EXCHANGE = re.compile(r"exchange '(?P<name>[^']*)' in vhost")
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (?P<limit>\d+)")


class Lanes:
    """Keeps the channels of a publisher open while `run` runs, and sends through them."""

    def __init__(self, link: Link, outbox: Outbox, count: int, rng: random.Random) -> None:
        """Prepare `count` lanes; nothing is opened before `run`."""
        self._link = link
        self._outbox = outbox
        self._rng = rng
        self._channels: list[PublisherChannel | None] = [None] * count
        self._known_exchanges: set[str] = {""}
        self._looked_at: BrokerConnection | None = None  # where the exchanges are known
        self._unknown: dict[str, list[Publishing]] = {}  # publishes that wait for the look at their exchange
        self._same_id: dict[bytes, deque[Publishing]] = {}  # those whose message id is in flight in every lane
        self._tasks: set[asyncio.Task[None]] = set()
        outbox.attach(self)

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes now."""
        connection = self._link.live
        return connection is not None and connection.plane.blocked_reason is not None

    # ---- what the outbox asks, see outbox.Taker

    def take(self, publishing: Publishing) -> bool:
        """Send a publish by its lane, or keep it until its exchange is known or its message id is free again."""
        channel = self._channels[publishing.lane]
        if channel is None or channel.is_over or channel.plane.room_bytes <= 0:
            return False
        if publishing.exchange not in self._known_exchanges:
            self._look_first(publishing, channel.connection)
        elif len(publishing.properties) > channel.max_properties_bytes:
            self._outbox.refused((publishing,), _headers_too_large(publishing, channel))
        elif not channel.has_id(publishing.message_id):
            channel.send(publishing)
        else:
            self._send_elsewhere(publishing)
        return True

    def _send_elsewhere(self, publishing: Publishing) -> None:
        """Send a publish by another lane, since its message id is in flight in its own; else keep it."""
        for channel in self._channels:
            if channel is None or channel.is_over or channel.has_id(publishing.message_id):
                continue
            channel.send(publishing)
            return
        self._same_id.setdefault(publishing.message_id, deque()).append(publishing)

    def give_up(self, publishing: Publishing) -> None:
        """Wait no longer for the confirm of a publish, and retire the channel it was sent by."""
        if publishing.give_up is not None:
            publishing.give_up(publishing)
            self._release_ids((publishing,))

    def why_not(self) -> str:
        """Say why nothing can be sent now."""
        connection = self._link.live
        if connection is None:
            return f"no connection ({self._link.last_error or 'not connected yet'})"
        if connection.plane.blocked_reason is not None:
            return f"the broker takes no publishes ({connection.plane.blocked_reason})"
        return "no channel could take it in time"

    # ---- what the channels tell, see publisher_channel.Outcomes

    def confirmed(self, publishings: list[Publishing]) -> None:
        """Pass on confirms; an id that was waited for may be free now."""
        self._outbox.confirmed(publishings)
        self._release_ids(publishings)

    def nacked(self, publishings: list[Publishing]) -> None:
        """Pass on nacks."""
        self._outbox.nacked(publishings)
        self._release_ids(publishings)

    def lost(self, publishings: list[Publishing], error: ChannelLost | ConnectionLost) -> None:
        """Tell the publish that ended the channel from its neighbours, whose fate is unknown."""
        culprits, refusal = self._culprits(publishings, error)
        if refusal is not None:
            self._outbox.refused(culprits, refusal)
        refused = set(culprits)
        self._outbox.lost([publishing for publishing in publishings if publishing not in refused], str(error))
        self._release_ids(publishings)

    def has_room(self) -> None:
        """Go on with what is parked."""
        self._outbox.pump()

    def _release_ids(self, publishings: Iterable[Publishing]) -> None:
        """Put back, for each publish that left its channel, the next one that waited for its message id."""
        if not self._same_id:
            return
        for publishing in publishings:
            kept = self._same_id.get(publishing.message_id)
            while kept:
                following = kept.popleft()
                if following.stage is Stage.PARKED:
                    self._outbox.put_back((following,))
                    break
            if kept is not None and not kept:
                self._same_id.pop(publishing.message_id, None)

    def _culprits(
        self, publishings: list[Publishing], error: ChannelLost | ConnectionLost
    ) -> tuple[list[Publishing], PublishError | None]:
        """Return the publishes that the broker certainly did not take, and what they end with.

        A channel works off its publishes in order, so of those to the exchange that the broker names, only a single one
        is certain to be the refused one; of several, the earlier ones may have been taken.
        """
        text = str(error)
        too_large = _TOO_LARGE.search(text)
        if too_large is not None:
            limit = int(too_large["limit"])
            refusal = MessageTooLarge(f"the broker takes no message of more than {limit} bytes")
            return [publishing for publishing in publishings if len(publishing.body) > limit], refusal
        code = error.code if isinstance(error, ChannelLost) else None
        named = _NAMED_EXCHANGE.search(text)
        if named is None or code not in (_ACCESS_REFUSED, _NOT_FOUND):
            return [], None
        self._known_exchanges.discard(named["name"])
        suspects = [publishing for publishing in publishings if publishing.exchange == named["name"]]
        return suspects if len(suspects) == 1 else [], Unroutable(text) if code == _NOT_FOUND else PublishNacked(text)

    # ---- exchanges

    def _look_first(self, publishing: Publishing, connection: BrokerConnection) -> None:
        waiting = self._unknown.setdefault(publishing.exchange, [])
        waiting.append(publishing)
        if len(waiting) == 1:
            self._own(self._look(publishing.exchange, connection))

    async def _look(self, exchange: str, connection: BrokerConnection) -> None:
        """Find out whether an exchange exists, on a channel of its own, and send what waits for the answer."""
        missing: Unroutable | None = None
        try:
            channel = await connection.channel()
            try:
                await topology.find_exchange(channel, exchange)
                self._known_exchanges.add(exchange)
            finally:
                await connection.close_channel(channel)
        except TopologyRefused as error:  # its first line is the broker's word, the rest is about queues
            missing = Unroutable(str(error).splitlines()[0])
        except BrokerError:  # what waits is looked at again, with the next connection or a little later
            await asyncio.sleep(RECONNECT.delay_s(0, self._rng))
        waiting = self._unknown.pop(exchange)
        if missing is not None:
            self._outbox.refused(waiting, missing)
        else:
            self._outbox.put_back(waiting)

    # ---- keeping the channels

    async def run(self) -> None:
        """Keep every lane open; ends only by cancellation."""
        await asyncio.gather(*(self._keep(lane) for lane in range(len(self._channels))))

    async def _keep(self, lane: int) -> None:
        """Open the channel of a lane, wait for its end, open the next."""
        loop = asyncio.get_running_loop()
        attempt = nacking = 0  # how many in a row failed or ended soon; of those, how many had nacked
        while True:
            connection = await self._link.connection()
            if connection is not self._looked_at:
                self._looked_at = connection
                self._known_exchanges = {""}
            try:
                async with asyncio.timeout(_OPEN_DEADLINE_S):
                    channel = await PublisherChannel.open(connection, self, RECONNECT.ceiling_s(nacking))
            except (BrokerError, TimeoutError) as error:
                if not connection.plane.lost.done():
                    log.warning("no publisher channel: %s", error or "no answer in time")
                    await asyncio.sleep(RECONNECT.delay_s(attempt, self._rng))
                    attempt += 1
                continue
            self._channels[lane] = channel
            self._outbox.pump()
            why = await asyncio.shield(channel.over)
            self._channels[lane] = None
            if not connection.plane.lost.done():
                log.warning("a publisher channel is replaced: %s", why)
                self._own(_see_off(channel))
            lived_s = loop.time() - channel.opened_at
            attempt = next_attempt(attempt, lived_s)
            nacking = next_attempt(nacking, lived_s) if channel.has_nacked else 0
            if attempt > 1:  # the one before did not last either
                await asyncio.sleep(RECONNECT.delay_s(attempt - 2, self._rng))

    def _own(self, duty: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(duty)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close the channels. Call after `run` was cancelled, when nothing more shall be published."""
        for task in list(self._tasks):
            task.cancel()
        channels, self._channels = self._channels, [None] * len(self._channels)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in channels if channel is not None))


async def _see_off(channel: PublisherChannel) -> None:
    """Close a retired channel once its last confirm came."""
    await channel.emptied()
    await channel.close()


def _headers_too_large(publishing: Publishing, channel: PublisherChannel) -> MessageTooLarge:
    return MessageTooLarge(
        f"publish to {publishing.route}: the headers and properties take {len(publishing.properties)} bytes, "
        f"and the connection takes {channel.max_properties_bytes}"
    )
