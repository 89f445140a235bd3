"""The channels of one publisher: opened, given to the outbox, replaced when they are over, closed.

All publishes of one exchange and routing key use the channel of one number, so that they keep their order. A channel
that has ended or is retired is replaced by another with the same number. A retired channel stays open until its last
confirm has come.

This module knows nothing about publishes, deadlines, the window and retries.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any

from mxworker.amqp.connecting.connection import BrokerConnection, Link
from mxworker.amqp.publishing.confirm_sink import ConfirmSink
from mxworker.amqp.publishing.exchanges import Exchanges
from mxworker.amqp.publishing.outbox import Outbox
from mxworker.amqp.publishing.publisher_channel import PublisherChannel
from mxworker.backoff import NACKING, RECONNECT, next_attempt
from mxworker.errors import BrokerError, ConnectionLost
from mxworker.system.log_events import log_event

log = logging.getLogger(__name__)

_OPEN_DEADLINE_S = 10.0


class Channels:
    """Keeps the channels of a publisher open while `run` runs."""

    def __init__(self, link: Link, outbox: Outbox, exchanges: Exchanges, count: int, rng: random.Random) -> None:
        """Prepare channels 0 to `count` - 1; none is opened before `run`."""
        self._link = link
        self._outbox = outbox
        self._exchanges = exchanges
        self._count = count
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep every channel open, until cancelled."""
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))

    async def _keep(self, number: int) -> None:
        """Open the channel of this number, wait until it is over, and open the next."""
        loop = asyncio.get_running_loop()
        attempt = nacking = 0  # channels in a row that failed or ended soon, and those of them that had nacked
        while True:
            connection = await self._link.connection()
            self._exchanges.use(connection)
            channel = await self._open(connection, NACKING.ceiling_s(nacking))
            if channel is None:
                await asyncio.sleep(RECONNECT.delay_s(attempt, self._rng))
                attempt += 1
                continue
            self._outbox.use(number, channel)
            why = await asyncio.shield(channel.over)
            self._outbox.use(number, None)
            if not connection.plane.lost.done():
                log.warning(
                    "a publisher channel is replaced: %s",
                    why,
                    extra=log_event("publisher_channel_replaced", why=str(why)),
                )
                self._own(_close_when_emptied(channel))
            lived_s = loop.time() - channel.opened_at
            attempt = next_attempt(attempt, lived_s)
            nacking = next_attempt(nacking, lived_s) if channel.has_nacked else 0
            if attempt > 1:  # the channel before did not last either
                await asyncio.sleep(RECONNECT.delay_s(attempt - 2, self._rng))

    async def _open(self, connection: BrokerConnection, nacks_for_s: float) -> PublisherChannel | None:
        """Return a new channel, None when it cannot be opened. Aborts the connection if the broker does not answer.

        A broker that is low on memory reads nothing, but will again. So the time does not count in which it blocks.
        """
        plane = connection.plane
        unblocked_before = plane.unblocked_count
        try:
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                channel = await PublisherChannel.open(connection)
        except BrokerError as error:
            if not plane.lost.done():
                facts = log_event("publisher_channel_failed", error=str(error))
                log.warning("no publisher channel: %s", error, extra=facts)
            return None
        except TimeoutError:
            if plane.blocked_reason is None and plane.unblocked_count == unblocked_before:
                plane.abort(ConnectionLost(f"no channel was opened within {_OPEN_DEADLINE_S:g} s"))
            return None
        sink = ConfirmSink(channel, self._outbox, self._exchanges, nacks_for_s)
        plane.register_publisher(channel.number, sink, self._outbox.send_waiting)
        return channel

    def _own(self, duty: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(duty)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Send nothing more. The channels end with their connection. Call after `run` was cancelled."""
        for number in range(self._count):
            self._outbox.use(number, None)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _close_when_emptied(channel: PublisherChannel) -> None:
    await channel.emptied()
    await channel.close()
