"""The queues that an application declares without consuming them, because its handlers publish to them.

They are declared before any queue is consumed, and again on each connection, because a broker may have lost them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming import topology
from mxworker.api.queues import Queue


class DeclaredQueues:
    """Declares the queues once on each connection, for the first consumer that needs them."""

    def __init__(self, queues: Sequence[Queue] = ()) -> None:
        self._queues = queues
        self._done_on: BrokerConnection | None = None
        self._declaring = asyncio.Lock()

    async def ensure(self, connection: BrokerConnection) -> None:
        """Declare all queues once on `connection`. Raises TopologyRefused, ChannelLost or ConnectionLost."""
        async with self._declaring:
            if not self._queues or connection is self._done_on:
                return
            channel = await connection.channel()
            try:
                for queue in self._queues:
                    await topology.ensure(channel, queue)
            finally:
                await connection.close_channel(channel)
            self._done_on = connection
