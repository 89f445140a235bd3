"""Take the messages of a queue and hold them unsettled, until they are acked one by one or all given back.

The broker gives back what is held whenever this process or its connection ends, so a message is never lost here. How
long that lasts on a queue with a delivery limit is decided by `renewal`.

A quorum queue keeps what was given back apart from what was never delivered, in the order in which it came back, and
delivers it first (rabbit_fifo.erl, `returns`). So messages keep their order when all of a queue are held and given
back, but not when a part of them is. Whoever takes messages should take all.

One consumer after the other takes them, on one channel. The prefetch of each is such that the bodies on their way fit
into `_ON_THE_WAY_BYTES`, since they are in the broker's memory meanwhile. When the channel ends, the broker gives back
what its consumers hold in the order of their tags (before RabbitMQ 4.0), or in that of their beginning.

This module knows nothing about what the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeVar

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import NOT_FOUND
from mxworker.amqp.consuming.depth import sure_depth
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.api.delivery import Delivery
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError, ChannelLost, ConfigError, TopologyRefused

REPLY_DEADLINE_S = 30.0
QUIET_S = 0.3
"""After this time without a delivery the broker is asked whether messages are left."""

_PATIENCE_S = 20.0
_WATCH_S = 0.5
_BACK_S = 10.0
_LOOK_AGAIN_S = 0.02
_FIRST_PREFETCH = 200  # before the size of the bodies is known
_LARGEST_PREFETCH = 65_535  # a short on the wire
_ON_THE_WAY_BYTES = 64 * 1024 * 1024
_TAG = "!{:06}"  # before the tags that the broker makes for basic.get, which are numbers

T = TypeVar("T")
Taken = Callable[[Delivery], None]


def side_queue(name: str) -> Queue:
    """Return the description of a queue that is taken as it is. Raises ConfigError for a name that cannot be one."""
    try:
        return Queue(name, declare="off", dead_letter=False)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None


async def depth(connection: BrokerConnection, name: str) -> int:
    """Return how many messages of a queue are ready. Raises BrokerError, also when there is no such queue."""
    return (await _depth(connection, name))[0]


async def _depth(connection: BrokerConnection, name: str) -> tuple[int, int]:
    """Return the numbers of ready messages and of consumers. Raises as `depth`."""
    channel = await connection.channel()
    try:
        async with asyncio.timeout(REPLY_DEADLINE_S):
            return await sure_depth(channel, name)
    except TimeoutError:
        raise ChannelLost(f"queue '{name}': no answer within {REPLY_DEADLINE_S:g} s") from None
    except TopologyRefused as error:
        if error.code != NOT_FOUND:
            raise
        raise BrokerError(
            f"there is no queue '{name}'.\n  mxworker declares QUEUE.dlq when a worker starts to consume QUEUE, and "
            "QUEUE.quarantine when the first message goes there. If the letters are in another queue, name it: --from"
        ) from None
    finally:
        await connection.close_channel(channel)


class Hold:
    """Holds messages of one queue. You must `close` it, which gives back what was not acked."""

    def __init__(self, connection: BrokerConnection, name: str, on_taken: Taken) -> None:
        """`on_taken` is called inside the read, for each message in the order of the queue."""
        self.taken = 0
        """How many messages came."""
        self._connection = connection
        self._queue = side_queue(name)
        self._on_taken = on_taken
        self._subscription: Subscription | None = None
        self._consumers = 0
        self._room = 0  # how many messages the present consumer may still take, as far as none is acked
        self._taken_bytes = 0
        self._came = asyncio.Event()
        self._error: Exception | None = None
        self._has_acked = False

    async def take(self, is_enough: Callable[[], bool]) -> None:
        """Take messages until `is_enough`, or until none is left in the queue.

        The consumer then goes on until `close`, so that `on_taken` may be called for messages that arrive meanwhile.
        Raises BrokerError, or what `on_taken` raised.
        """
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while not is_enough():
            subscription = await self._consuming()
            self.check()
            if await self._something_came(subscription):
                silent_since = loop.time()
                continue
            left, consumers = await _depth(self._connection, self._queue.name)
            if left == 0 and consumers and not self._came.is_set():  # without our own consumer, it is no answer
                break
            if loop.time() - silent_since > _PATIENCE_S:
                raise ChannelLost(
                    f"queue '{self._queue.name}': {left} messages are ready, but the broker delivers none for "
                    f"{_PATIENCE_S:g} s.\n  Has the queue another consumer that takes them all, or lost its leader?"
                )
        self.check()

    async def watch(self) -> None:
        """Go on to take what arrives, until cancelled or until nothing is held any more; `check` tells why then."""
        while not self._has_ended:
            with suppress(BrokerError):
                await self.take(lambda: False)
            await asyncio.sleep(_WATCH_S)

    @property
    def _has_ended(self) -> bool:
        return self._error is not None or (self._subscription is not None and self._subscription.is_lost)

    async def _something_came(self, subscription: Subscription) -> bool:
        """Wait for a delivery, the end of the channel, or `QUIET_S`."""
        waiting = asyncio.ensure_future(self._came.wait())
        try:
            await asyncio.wait((waiting, subscription.lost), timeout=QUIET_S, return_when="FIRST_COMPLETED")
        finally:
            waiting.cancel()
        came = self._came.is_set()
        self._came.clear()
        return came

    async def _consuming(self) -> Subscription:
        """Return the subscription, with a consumer that has room for messages."""
        subscription = self._subscription
        if subscription is None:
            subscription = self._subscription = await Subscription.open(
                self._connection, self._queue, None, self._admit, on_too_large=self._refuse_large
            )
        if self._room <= 0 and not subscription.is_lost:
            await subscription.cancel()
            self._consumers += 1
            self._room = self._prefetch()
            await subscription.consume(self._room, _TAG.format(self._consumers))
        return subscription

    def _prefetch(self) -> int:
        if not self.taken:
            return _FIRST_PREFETCH
        average_bytes = max(1, self._taken_bytes // self.taken)
        return max(1, min(_LARGEST_PREFETCH, _ON_THE_WAY_BYTES // average_bytes))

    def _admit(self, *deliveries: Delivery) -> None:
        self.taken += len(deliveries)
        self._taken_bytes += sum(len(delivery.body) for delivery in deliveries)
        self._room -= len(deliveries)
        self._came.set()
        for delivery in deliveries:
            if self._error is not None:
                return
            try:
                self._on_taken(delivery)
            except Exception as error:  # raised here, it would end the connection inside the read
                self._error = error

    def _refuse_large(self, what: str) -> None:
        self._error = BrokerError(f"{what}. It stays in the queue.")
        self._came.set()

    def check(self) -> None:
        """Raise the error for which nothing is held any more, or the one that `on_taken` raised."""
        if self._error is not None:
            raise self._error
        if self._subscription is not None and self._subscription.is_lost:
            raise self._subscription.lost.result()

    def ack(self, delivery: Delivery) -> bool:
        """Remove a message from the queue; return False when it was given back already."""
        self._has_acked = True
        return self._subscription is not None and self._subscription.ack(delivery)

    def settled(self, letters: Iterable[tuple[T, Delivery]]) -> Iterator[tuple[T, Callable[[], bool]]]:
        """Yield each letter with the function that acks its delivery."""
        return ((letter, partial(self.ack, delivery)) for letter, delivery in letters)

    async def close(self) -> None:
        """Give back what is held. What was acked has reached the broker then, unless the connection was lost.

        The consumer still takes what arrives while the acks are waited for, so that the messages go back in order.
        """
        subscription = self._subscription
        if subscription is None:
            return
        if self._has_acked:
            with suppress(TimeoutError):
                async with asyncio.timeout(REPLY_DEADLINE_S):
                    await subscription.barrier(keeps_got=True)
        await subscription.cancel()
        with suppress(BrokerError):
            ready = await depth(self._connection, self._queue.name) + subscription.unsettled
            await subscription.close()
            await self._wait_until_back(ready)
        await subscription.close()

    async def _wait_until_back(self, ready: int) -> None:
        """Wait until the broker has given back what was held, which it does some time after the close of the channel.

        Whoever takes messages before that first gets those that were behind them. When so many are not ready after
        `_BACK_S`, somebody else consumes the queue.
        """
        gives_up_at = asyncio.get_running_loop().time() + _BACK_S
        while await depth(self._connection, self._queue.name) < ready:
            if asyncio.get_running_loop().time() >= gives_up_at:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
