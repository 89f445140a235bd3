"""The demo's own connection to the broker: it sends the orders, reads the dead letters, and deletes the queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import islice

import aio_pika
from aio_pika.abc import AbstractChannel

from handlers_example import shop
from handlers_example.demo.accounts import DeadLetter
from handlers_example.demo.orders import Sample
from mxworker import Message, Publisher
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.api.handlers import compile_handlers
from mxworker.brokers import BrokerUrl
from mxworker.errors import BrokerError, PublishError

_AT_ONCE = 500  # unconfirmed orders at once; twice as many are not faster
_CONNECT_DEADLINE_S = 10.0
_CLOSE_DEADLINE_S = 5.0


class Broker:
    """The queues of this run; the service declares them.

    Every method raises BrokerError when the broker is lost. `prefix` is put before the names of all queues.
    """

    def __init__(self, publisher: Publisher, channel: AbstractChannel, prefix: str) -> None:
        self.sent = 0
        """How many orders the broker has confirmed."""
        self._publisher = publisher
        self._channel = channel
        self._prefix = prefix

    async def send(self, samples: Iterable[Sample], queue: str) -> None:
        """Publish `samples` with confirms. Raises the first PublishError."""
        remaining = iter(samples)
        while window := list(islice(remaining, _AT_ONCE)):
            messages = [Message(sample.body, "application/json", message_id=sample.id) for sample in window]
            for outcome in await self._publisher.publish_many(messages, routing_key=self._prefix + queue):
                if isinstance(outcome, PublishError):
                    raise outcome
                self.sent += 1

    async def take_dead_letters(self, queue: str) -> list[DeadLetter]:
        """Take all messages out of the dead-letter queue of `queue`.

        A cancellation waits for the broker's answer, because a cancelled request costs the library its channel.
        """
        taking = asyncio.create_task(self._take_dead_letters(queue))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait({taking})
            raise

    async def _take_dead_letters(self, queue: str) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        with library_errors(queue):
            source = await self._channel.get_queue(f"{self._prefix}{queue}.dlq", ensure=False)
            while (message := await source.get(no_ack=True, fail=False)) is not None:
                letters.append(DeadLetter(queue, message.message_id or "", message.body, message.headers))
        return letters


def _queues() -> Iterator[str]:
    """Yield the names of all queues of the shop, without the prefix."""
    for handler in compile_handlers(shop.handlers):
        queue = handler.queue
        for name in (queue.name, queue.dead_letter_name, *map(queue.retry_name, handler.retry_steps_ms)):
            yield name.removeprefix(shop.PREFIX)


@asynccontextmanager
async def connected(url: BrokerUrl, prefix: str) -> AsyncIterator[Broker]:
    """Lend a `Broker`, and delete the queues afterwards. Raises BrokerError."""
    async with _channel(url) as channel, Publisher.connect(url.dsn, name="mxworker demo") as publisher:
        try:
            yield Broker(publisher, channel, prefix)
        finally:
            with suppress(BrokerError):  # a broker that has gone has no queues to delete
                await _delete_queues(url, prefix)


async def _delete_queues(url: BrokerUrl, prefix: str) -> None:
    """Delete the queues of the shop, and the queues beside them, with their messages.

    This takes a new connection, because the fault that ended the demo may have closed the first one.
    """
    async with _channel(url) as channel:
        for name in _queues():
            with library_errors(name):
                await channel.queue_delete(prefix + name)


@asynccontextmanager
async def _channel(url: BrokerUrl) -> AsyncIterator[AbstractChannel]:
    try:
        connection = await aio_pika.connect(url.dsn, timeout=_CONNECT_DEADLINE_S)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as error:
        raise BrokerError(f"no connection to {url}: {error}") from error
    try:
        with library_errors():
            channel = await connection.channel()
        yield channel
    finally:
        with suppress(Exception, TimeoutError):
            await asyncio.wait_for(connection.close(), _CLOSE_DEADLINE_S)
