"""Requests about queues that the broker may refuse: each refusal ends a channel, and the next request opens another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import LOCKED, NOT_FOUND, library_errors
from mxworker.amqp.consuming.differences import Asked
from mxworker.errors import BrokerError, ChannelLost, TopologyRefused


class Declaring:
    """Makes requests on channels of its own; a context manager that closes them. The requests raise BrokerError."""

    def __init__(self, connection: BrokerConnection) -> None:
        """Open no channel yet."""
        self.connection = connection
        self._channel: AbstractChannel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def take(self) -> AbstractChannel:
        """Return an open channel, which is the caller's from now on."""
        channel = self._channel or await self.connection.channel()
        self._channel = None
        return channel

    async def exists(self, name: str) -> bool:
        """Whether there is a queue of this name, which may be exclusive to another connection."""
        try:
            await self.check(name)
        except TopologyRefused as error:
            if error.code == LOCKED:
                return True
            if error.code == NOT_FOUND:
                return False
            raise
        return True

    async def check(self, name: str) -> None:
        """Ask for a queue as it is. That needs no right."""
        async with self._request(name) as underlay:
            await underlay.queue_declare(name, passive=True)

    async def declare(self, name: str, asked: Asked) -> None:
        """Declare a queue, which creates it when it is missing."""
        async with self._request(name) as underlay:
            await underlay.queue_declare(
                name, durable=asked.durable, auto_delete=asked.auto_delete, arguments=dict(asked.arguments)
            )

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Bind a queue to an exchange."""
        async with self._request(queue) as underlay:
            await underlay.queue_bind(queue, exchange, routing_key)

    @asynccontextmanager
    async def _request(self, queue: str) -> AsyncIterator[Any]:
        if self._channel is None:
            self._channel = await self.connection.channel()
        underlay = await self._channel.get_underlay_channel()
        try:
            with library_errors(queue):
                yield underlay
        except ChannelLost as error:
            await self._close()
            if error.code == LOCKED:
                raise TopologyRefused(str(error), LOCKED, str(error), queue) from error
            raise
        except BrokerError:
            await self._close()  # the broker has closed it
            raise

    async def _close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await self.connection.close_channel(channel)
