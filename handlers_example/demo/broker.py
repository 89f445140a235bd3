"""The demo's own way to the broker: it sends the orders, counts what was refused, and tidies up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import islice

import aio_pika
from aio_pika.abc import AbstractChannel, DeliveryMode

from handlers_example.demo.orders import Sample
from mxworker.amqp.translate import library_errors
from mxworker.brokers import BrokerUrl
from mxworker.errors import BrokerError

_WINDOW = 500  # publishes that await their confirm at once; twice as many bring no more speed
_CONNECT_DEADLINE_S = 10.0
_CLOSE_DEADLINE_S = 5.0


class Broker:
    """A channel to the queue of this run and to its dead-letter queue; the service declares both.

    Every method raises BrokerError when the broker is lost.
    """

    def __init__(self, channel: AbstractChannel, queue: str) -> None:
        self.sent = 0
        """How many orders the broker has confirmed."""
        self._channel = channel
        self._queue = queue
        self._dead_letter_queue = f"{queue}.dlq"

    async def send(self, samples: Iterable[Sample]) -> None:
        """Publish `samples`, persistent and confirmed."""
        remaining = iter(samples)
        while window := list(islice(remaining, _WINDOW)):
            with library_errors(self._queue):
                await asyncio.gather(*map(self._publish, window))

    async def _publish(self, sample: Sample) -> None:
        message = aio_pika.Message(
            sample.body,
            message_id=sample.id,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(message, self._queue)
        self.sent += 1

    async def waiting(self) -> int:
        """Return how many orders no worker has taken yet."""
        return await self._depth(self._queue)

    async def refused(self) -> int:
        """Return how many orders were dead-lettered."""
        return await self._depth(self._dead_letter_queue)

    async def _depth(self, queue: str) -> int:
        with library_errors(queue):
            underlay = await self._channel.get_underlay_channel()
            declared = await underlay.queue_declare(queue, passive=True)
        return declared.message_count or 0

    async def delete_queues(self) -> None:
        """Delete both queues and what they hold."""
        for queue in (self._queue, self._dead_letter_queue):
            with library_errors(queue):
                await self._channel.queue_delete(queue)


@asynccontextmanager
async def connected(url: BrokerUrl, queue: str) -> AsyncIterator[Broker]:
    """Lend a `Broker` for the queue named `queue`; afterwards the queue is gone. Raises BrokerError."""
    try:
        connection = await aio_pika.connect(url.dsn, timeout=_CONNECT_DEADLINE_S)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as error:
        raise BrokerError(f"no connection to {url}: {error}") from error
    try:
        with library_errors(queue):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        broker = Broker(channel, queue)
        try:
            yield broker
        finally:
            with suppress(BrokerError):  # a broker that is gone needs no tidying
                await broker.delete_queues()
    finally:
        with suppress(Exception, TimeoutError):
            await asyncio.wait_for(connection.close(), _CLOSE_DEADLINE_S)
