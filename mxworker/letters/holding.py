"""Take the messages of a queue and hold them unsettled, until they are acked one by one or all given back.

The broker gives back what is held whenever this process or its connection ends, so a message is never lost here. How
far that lasts on a queue with a delivery limit is decided by `renewal`.

A consumer can hold 65,535 messages, so further ones are held on further channels. The prefetch of a consumer is such
that the bodies on their way fit into `_ON_THE_WAY_BYTES`, because they are in the broker's memory meanwhile.

This module knows nothing about what the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.api.delivery import Delivery, source_of
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError, ChannelLost, ConfigError

REPLY_DEADLINE_S = 30.0
QUIET_S = 0.3
"""After this time without a delivery the broker is asked whether messages are left."""

_PATIENCE_S = 20.0
_FIRST_PREFETCH = 200  # before the size of the bodies is known
_LARGEST_PREFETCH = 65_535  # a short on the wire
_ON_THE_WAY_BYTES = 32 * 1024 * 1024

Taken = Callable[[Delivery], None]


def side_queue(name: str) -> Queue:
    """Return the description of a queue that is taken as it is. Raises ConfigError for a name that cannot be one."""
    try:
        return Queue(name, declare="off", dead_letter=False)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None


async def depth(connection: BrokerConnection, name: str) -> int:
    """Return how many messages of a queue are ready. Raises BrokerError, also when there is no such queue."""
    channel = await connection.channel()
    try:
        async with asyncio.timeout(REPLY_DEADLINE_S):
            ready = await topology.depth_if_there(channel, name)
    except TimeoutError:
        raise ChannelLost(f"queue '{name}': no answer within {REPLY_DEADLINE_S:g} s") from None
    finally:
        await connection.close_channel(channel)
    if ready is None:
        raise BrokerError(
            f"there is no queue '{name}'.\n  mxworker declares QUEUE.dlq when a worker starts to consume QUEUE, and "
            "QUEUE.quarantine when the first message goes there. If the letters are in another queue, name it: --from"
        )
    return ready


class Hold:
    """Holds messages of one queue. You must `close` it, which gives back what was not acked."""

    def __init__(self, connection: BrokerConnection, name: str, on_taken: Taken) -> None:
        """`on_taken` is called inside the read, for each message in the order of the queue."""
        self._connection = connection
        self._queue = side_queue(name)
        self._on_taken = on_taken
        self._windows: list[Subscription] = []
        self._came = asyncio.Event()
        self._taken = 0
        self._taken_bytes = 0
        self._error: Exception | None = None
        self._has_acked = False

    @property
    def taken(self) -> int:
        """How many messages came."""
        return self._taken

    async def take(self, is_enough: Callable[[], bool]) -> None:
        """Take messages until `is_enough`, or until none is left in the queue.

        The consumer then goes on until `close`, so that `on_taken` may be called for messages that arrive meanwhile.
        Raises BrokerError, or what `on_taken` raised.
        """
        silent_since = asyncio.get_running_loop().time()
        while not is_enough():
            window = await self._present()
            self.check()
            if window.unsettled >= window.prefetch:
                continue
            if await self._something_came(window):
                self._came.clear()
                silent_since = asyncio.get_running_loop().time()
                continue
            left = await depth(self._connection, self._queue.name)
            if left == 0 and not self._came.is_set():
                break
            if asyncio.get_running_loop().time() - silent_since > _PATIENCE_S:
                raise ChannelLost(
                    f"queue '{self._queue.name}': {left} messages are ready, but the broker delivers none for "
                    f"{_PATIENCE_S:g} s.\n  Has the queue another consumer that takes them all, or lost its leader?"
                )
        self.check()

    async def _something_came(self, window: Subscription) -> bool:
        """Wait for a delivery, the end of the channel, or `QUIET_S`."""
        waiting = asyncio.ensure_future(self._came.wait())
        try:
            await asyncio.wait((waiting, window.lost), timeout=QUIET_S, return_when="FIRST_COMPLETED")
        finally:
            waiting.cancel()
        return self._came.is_set()

    def check(self) -> None:
        """Raise the error for which nothing is held any more, or the one that `on_taken` raised."""
        if self._error is not None:
            raise self._error
        for window in self._windows:
            if window.is_lost:
                raise window.lost.result()

    def ack(self, delivery: Delivery) -> bool:
        """Remove a message from the queue; return False when it was given back already."""
        self._has_acked = True
        return source_of(delivery).ack(delivery)

    async def close(self) -> None:
        """Give back what is held. What was acked has reached the broker then, unless the connection was lost.

        The consumers still take what arrives while the acks are waited for, so that the messages go back in order.
        """
        if self._has_acked:
            with suppress(TimeoutError):
                async with asyncio.timeout(REPLY_DEADLINE_S):
                    for window in self._windows:
                        await window.barrier(keeps_got=True)
        for window in self._windows:
            await window.cancel()
        for window in self._windows:
            await window.close()
        self._windows.clear()

    async def _present(self) -> Subscription:
        """Return the window that can take messages: the last one, or a new one when that is full."""
        if self._windows:
            last = self._windows[-1]
            if last.is_lost or last.unsettled < last.prefetch:
                return last
            await last.cancel()
        opened = await Subscription.open(
            self._connection, self._queue, None, self._admit, on_too_large=self._refuse_large
        )
        self._windows.append(opened)
        await opened.consume(self._prefetch())
        return opened

    def _prefetch(self) -> int:
        if not self._taken:
            return _FIRST_PREFETCH
        average_bytes = max(1, self._taken_bytes // self._taken)
        return max(1, min(_LARGEST_PREFETCH, _ON_THE_WAY_BYTES // average_bytes))

    def _admit(self, delivery: Delivery) -> None:
        self._taken += 1
        self._taken_bytes += len(delivery.body)
        self._came.set()
        if self._error is not None:
            return
        try:
            self._on_taken(delivery)
        except Exception as error:  # raised here, it would end the connection inside the read
            self._error = error

    def _refuse_large(self, what: str) -> None:
        self._error = BrokerError(f"{what}. It stays in the queue.")
        self._came.set()
