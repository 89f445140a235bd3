"""The publisher channels of one publisher, each replaced whenever it ends, and which publish takes which.

All publishes of one exchange and routing key take the same lane, so that they arrive in their order. A lane's channel
is replaced on every loss and when it is retired; the retired one lives on until its last confirm came.

Must not know: deadlines, the window, when to try again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Coroutine
from typing import Any

from mxworker.amqp.connecting.connection import BrokerConnection, Link
from mxworker.amqp.publishing.close_reason import is_refused_as_a_whole, refused_exchange, refused_publishes
from mxworker.amqp.publishing.exchanges import Exchanges
from mxworker.amqp.publishing.outbox import Outbox
from mxworker.amqp.publishing.publisher_channel import PublisherChannel
from mxworker.amqp.publishing.publishing import Publishing, Stage
from mxworker.backoff import NACKING, RECONNECT, next_attempt
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost, MessageTooLarge, PublishError

log = logging.getLogger(__name__)

_OPEN_DEADLINE_S = 10.0


class Lanes:
    """Keeps the channels of a publisher open while `run` runs, and sends through them."""

    def __init__(self, link: Link, outbox: Outbox, count: int, rng: random.Random) -> None:
        """Prepare `count` lanes; nothing is opened before `run`."""
        self._link = link
        self._outbox = outbox
        self._rng = rng
        self._channels: list[PublisherChannel | None] = [None] * count
        self._exchanges = Exchanges(outbox.put_back, self._refuse_soon, self._own)
        self._same_id: dict[bytes, deque[Publishing]] = {}  # those whose message id is in flight; bound: the window
        self._tasks: set[asyncio.Task[None]] = set()
        outbox.attach(self)

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes now."""
        connection = self._link.live
        return connection is not None and connection.plane.blocked_reason is not None

    # ---- what the outbox asks, see outbox.Taker

    def take(self, publishing: Publishing) -> bool:
        """Send a publish by its lane, or keep it until its exchange is known or its message id is free."""
        channel = self._channels[publishing.route.channel]
        if channel is None or channel.is_over or channel.plane.room_bytes <= 0:
            return False
        if publishing.route.exchange not in self._exchanges.known:
            self._exchanges.hold(publishing, channel.connection)
        elif len(publishing.properties) > channel.max_properties_bytes:
            self._refuse_soon(publishing, _headers_too_large(publishing, channel))
        elif channel.has_id(publishing.message_id):
            self._same_id.setdefault(publishing.message_id, deque()).append(publishing)
        else:
            channel.send(publishing)
        return True

    def _refuse_soon(self, publishing: Publishing, error: PublishError) -> None:
        """Refuse a publish, but not from inside `take`: the outbox would hand on the next one from there, and so on."""
        asyncio.get_running_loop().call_soon(self._outbox.refused, (publishing,), error)

    def give_up(self, publishing: Publishing) -> None:
        """Wait no longer for the confirm of a publish, and retire the channel it was sent by."""
        if publishing.give_up is not None:
            publishing.give_up(publishing)

    @property
    def has_id_waiters(self) -> bool:
        """Whether a publish waits until its message id is free."""
        return bool(self._same_id)

    def free_id(self, message_id: bytes) -> None:
        """Put back the next publish that waits for this message id."""
        kept = self._same_id.get(message_id)
        while kept:
            following = kept.popleft()
            if following.stage is Stage.PARKED:
                self._outbox.put_back((following,))
                break
        if kept is not None and not kept:
            del self._same_id[message_id]

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
        """Pass on confirms."""
        self._outbox.confirmed(publishings)

    def nacked(self, publishings: list[Publishing]) -> None:
        """Pass on nacks."""
        self._outbox.nacked(publishings)

    def unsent(self, publishings: list[Publishing]) -> None:
        """Pass on what was never written."""
        self._outbox.unsent(publishings)

    def lost(self, publishings: list[Publishing], error: ChannelLost | ConnectionLost, is_complete: bool) -> None:
        """Tell the publish that ended the channel from its neighbours, whose fate is unknown."""
        refused = refused_exchange(error)
        if refused is not None:
            self._exchanges.note_refused(*refused, is_lasting=is_refused_as_a_whole(error))
        found, refusal = refused_publishes(publishings, error, is_complete)
        if refusal is not None:
            self._outbox.refused(found, refusal)
        certain = set(found)
        self._outbox.lost([publishing for publishing in publishings if publishing not in certain], str(error))

    def has_room(self) -> None:
        """Go on with what is parked."""
        self._outbox.pump()

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
            self._exchanges.use(connection)
            channel = await self._open(connection, NACKING.ceiling_s(nacking))
            if channel is None:
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

    async def _open(self, connection: BrokerConnection, patience_s: float) -> PublisherChannel | None:
        """Return a new channel, None when there is none to be had. A broker that does not even answer is left."""
        try:
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                return await PublisherChannel.open(connection, self, patience_s)
        except BrokerError as error:
            if not connection.plane.lost.done():
                log.warning("no publisher channel: %s", error)
        except TimeoutError:
            if connection.plane.blocked_reason is None:  # one that is low on memory reads nothing, and is to be kept
                connection.plane.abort(ConnectionLost(f"no channel was opened within {_OPEN_DEADLINE_S:g} s"))
        return None

    def _own(self, duty: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(duty)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Send nothing more. The channels end with their connection. Call after `run` was cancelled."""
        self._channels = [None] * len(self._channels)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _see_off(channel: PublisherChannel) -> None:
    """Close a retired channel once its last confirm came."""
    await channel.emptied()
    await channel.close()


def _headers_too_large(publishing: Publishing, channel: PublisherChannel) -> MessageTooLarge:
    return MessageTooLarge(
        f"publish to {publishing.route}: the headers and properties take {len(publishing.properties)} bytes, "
        f"and the connection takes {channel.max_properties_bytes}"
    )
