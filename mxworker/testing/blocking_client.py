"""A client of a broker for code that blocks: its event loop runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.consuming.depth import depth_if_there
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.message import MessageOptions
from mxworker.brokers import BrokerUrl
from mxworker.devbroker.frames import short_string
from mxworker.errors import ConnectionLost, TopologyRefused
from mxworker.testing.received import Received

T = TypeVar("T")

_CONNECT_S = 10.0
_ANSWER_S = 30.0


class BlockingClient:
    """A publisher, and a connection for questions about queues. Call `close` at the end."""

    def __init__(self, url: str) -> None:
        """Connect. Raises BrokerError."""
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mx_broker", daemon=True)
        self._thread.start()
        self._opened = AsyncExitStack()
        try:
            self._do(self._open())
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        url = BrokerUrl.parse(self._url)
        publishing = Publisher.connect(self._url, name="mx_broker", connect_wait_s=_CONNECT_S)
        self._publisher = await self._opened.enter_async_context(publishing)
        self._connection = await BrokerConnection.open(url, "mx_broker", self._loop.time() + _CONNECT_S)
        self._opened.push_async_callback(self._connection.close)

    def close(self) -> None:
        """Disconnect, and end the thread."""
        try:
            self._do(self._opened.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def publish(self, body: Any, routing_key: str, exchange: str, options: MessageOptions) -> None:
        """Publish a message, and wait for its confirm. Raises PublishError."""
        self._do(self._publisher.publish(body, routing_key=routing_key, exchange=exchange, **options))

    def take(self, queue: str) -> Received | None:
        """Take the next message out of a queue; None when there is none, or no such queue."""
        return self._do(self._take(queue))

    def ready(self, queue: str) -> int | None:
        """Return how many messages are ready in a queue; None when there is no such queue."""
        return self._do(self._ready(queue))

    def delete(self, queue: str) -> None:
        """Delete a queue. One that is missing is no error."""
        self._do(self._delete(queue))

    async def _take(self, queue: str) -> Received | None:
        try:
            async with self._channel() as channel:
                underlay = await channel.get_underlay_channel()
                with library_errors(queue):
                    got: Any = await underlay.basic_get(queue, no_ack=True)
        except TopologyRefused:
            return None
        if got.delivery_tag is None:
            return None
        route = short_string(got.exchange or "") + short_string(got.routing_key or "")
        return Received(got.body, got.header.properties.marshal(), route)

    async def _ready(self, queue: str) -> int | None:
        async with self._channel() as channel:
            return await depth_if_there(channel, queue)

    async def _delete(self, queue: str) -> None:
        async with self._channel() as channel:
            underlay = await channel.get_underlay_channel()
            with library_errors(queue):
                await underlay.queue_delete(queue)

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Any]:
        channel = await self._connection.channel()
        try:
            yield channel
        finally:
            await self._connection.close_channel(channel)

    def _do(self, request: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(request, self._loop)
        try:
            return future.result(_ANSWER_S)
        except TimeoutError:
            future.cancel()
            raise ConnectionLost(f"the broker gave no answer within {_ANSWER_S:g} s") from None
