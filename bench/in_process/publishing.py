"""Publishes go into the publisher and come out of the transport; the next loop turn brings their confirms."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import deque

from bench.client.payload import payload
from bench.wire.plain_server import Connection, Counts, framed
from bench.wire.replies import replies
from mxworker import Publisher, PublisherSettings, Receipt
from mxworker.amqp.connecting.connection import Dialler, Link, until_up
from mxworker.amqp.protocol.frames import FRAME_METHOD, encode_publish
from mxworker.api.message import Encoder
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.payloads.compression import compression_of

QUEUE = "mxworker-bench"
_ACK = struct.Struct(">HHQB")
_CONNECT_S = 30.0


class Confirmer(asyncio.Transport):
    """Stands in for the transport: a wire server for the handshake, then one ack for all publishes of a write."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._server = Connection(replies(QUEUE, 256), Counts(0), QUEUE.encode())
        numbers = range(1, 1 + PublisherSettings().channels)
        self._methods = {number: encode_publish(number, b"", QUEUE.encode(), True) for number in numbers}
        self._published = dict.fromkeys(numbers, 0)
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Answer in the next loop turn."""
        self._loop.call_soon(self._answer, bytes(data))

    def _answer(self, data: bytes) -> None:
        counts = {number: count for number, method in self._methods.items() if (count := data.count(method))}
        for number, count in counts.items():
            self._published[number] += count
            ack = _ACK.pack(60, 80, self._published[number], 1)
            self._protocol.data_received(framed(FRAME_METHOD, number, ack))
        if not counts:  # a write of the library, which shares none with publishes
            self._server.feed(data)
            data, self._server.out = self._server.out, b""
            self._protocol.data_received(data)

    def close(self) -> None:
        """End the connection."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self._is_closing

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return the default, because there is no socket."""
        return default

    def get_write_buffer_size(self) -> int:
        """Return 0, because there is no buffer."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing, because there is no buffer."""


class Publishes:
    """A publisher, connected to a `Confirmer`. `connect` makes it."""

    def __init__(self, publisher: Publisher, link: Link, window: int, tasks: list[asyncio.Task[None]]) -> None:
        self._publisher = publisher
        self._link = link
        self._window = window
        self._tasks = tasks
        self._body = payload(256)

    @classmethod
    async def connect(cls, window: int) -> Publishes:
        """Connect a publisher that has at most `window` publishes unconfirmed."""
        settings, rng, attempted = PublisherSettings(), random.Random(1), asyncio.Event()
        link = Link(Dialler(Brokers((BrokerUrl("in-process"),)), rng, wire=Confirmer), "bench", attempted.set)
        publisher = Publisher(link, settings, Encoder(compression_of(settings), {}, settings.max_body_bytes), rng)
        tasks = [asyncio.create_task(link.run()), asyncio.create_task(publisher.run())]
        await until_up(link, attempted, _CONNECT_S)
        await publisher.publish(b"", routing_key=QUEUE)  # so the channel is open
        return cls(publisher, link, window, tasks)

    async def close(self) -> None:
        """Close the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._publisher.close()
        await self._link.close()

    async def run(self, messages: int) -> float:
        """Publish `messages` messages, wait until all are confirmed, and return the CPU seconds used."""
        publish, body = self._publisher.publish_nowait, self._body
        unconfirmed: deque[Receipt] = deque()
        begun = time.thread_time()
        for _ in range(messages):
            if len(unconfirmed) == self._window:
                await unconfirmed.popleft()
            unconfirmed.append(publish(body, routing_key=QUEUE))
        for receipt in unconfirmed:
            await receipt
        return time.thread_time() - begun
