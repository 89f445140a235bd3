"""A scripted AMQP server on loopback: it does what RabbitMQ would never do, at the moment a test chooses.

pamqp is its codec, so that it shares no mistakes with the code under test. Each accepted connection runs the script;
what a script does not handle, `serve` answers the way a decent broker would.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from pamqp import base, body, commands, heartbeat
from pamqp import frame as frames

from mxworker.brokers import BrokerUrl
from tests.harness.waiting import until

HEARTBEAT = heartbeat.Heartbeat().marshal()
_HEAD = struct.Struct(">BHI")

Method = TypeVar("Method", bound=base.Frame)
Script = Callable[["Peer"], Awaitable[None]]

START = commands.Connection.Start(
    server_properties={
        "product": "FakeMQ",
        "version": "1.0",
        "capabilities": {"basic.nack": True, "publisher_confirms": True},
    },
    mechanisms="PLAIN",
)


class Peer:
    """One accepted connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received: list[tuple[int, frames.FrameTypes]] = []
        """Every frame that came, with its channel."""
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        """Send raw bytes."""
        self._writer.write(data)

    def send(self, method: base.Frame, channel: int = 0) -> None:
        """Send a method frame."""
        self.write(frames.marshal(method, channel))

    def deliver(self, tag: int, message: bytes, channel: int = 1) -> None:
        """Send a delivery in three frames."""
        self.write(delivery(tag, message, channel))

    async def read(self) -> tuple[int, frames.FrameTypes]:
        """Return the next frame that is no heartbeat, with its channel."""
        while True:
            head = await self._reader.readexactly(_HEAD.size)
            _, channel, size = _HEAD.unpack(head)
            frame = frames.unmarshal(head + await self._reader.readexactly(size + 1))[2]
            self.received.append((channel, frame))
            if not isinstance(frame, heartbeat.Heartbeat):
                return channel, frame

    async def expect(self, kind: type[Method]) -> Method:
        """Return the next frame, which must be a `kind`."""
        _, frame = await self.read()
        assert isinstance(frame, kind), frame
        return frame

    async def first(self, size_bytes: int) -> bytes:
        """Return the client's first bytes, whatever they are."""
        return await self._reader.readexactly(size_bytes)

    async def greeting(self) -> None:
        """Take the client's protocol header."""
        await self.first(8)

    async def start(self) -> None:
        """Take the client's credentials."""
        await self.greeting()
        self.send(START)
        await self.expect(commands.Connection.StartOk)

    async def handshake(self, frame_max: int = 131_072, channel_max: int = 2047) -> None:
        """Let the client in."""
        await self.start()
        self.send(commands.Connection.Tune(channel_max, frame_max, 60))
        await self.expect(commands.Connection.TuneOk)
        await self.expect(commands.Connection.Open)
        self.send(commands.Connection.OpenOk())

    async def serve(self, until: type[base.Frame] | None = None) -> None:
        """Answer requests, until a frame of the kind `until` came (it is left unanswered) or the client left."""
        while True:
            channel, frame = await self.read()
            if until is not None and isinstance(frame, until):
                return
            answer = answer_to(frame)
            if answer is not None:
                self.send(answer, channel)
            if isinstance(frame, commands.Connection.Close):
                return

    async def gone(self) -> None:
        """Read and forget until the client has closed its side."""
        with suppress(OSError):
            while await self._reader.read(65536):
                pass

    def stop_reading(self) -> None:
        """Leave what comes in the socket."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a two-way one

    def hang_up(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()

    def close_after(self, data: bytes) -> None:
        """Send raw bytes, then close the connection."""
        self.write(data)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class FakeBroker:
    """Accepts connections and runs `script` on each. A failed assertion of a script fails the test at the end."""

    def __init__(
        self, script: Script, heartbeat_s: int = 10, port: int = 0, encryption: ssl.SSLContext | None = None
    ) -> None:
        self.peers: list[Peer] = []
        self.accepted_at: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.url = BrokerUrl("127.0.0.1", port, heartbeat_s=heartbeat_s, is_tls=encryption is not None)
        self._encryption = encryption
        self._script = script
        self._failures: list[AssertionError] = []

    async def accept(self, count: int, within_s: float = 30.0) -> None:
        """Wait until `count` connections have been accepted since the start."""
        await until(lambda: len(self.peers) >= count, within_s, f"{count} connections")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.url.host, self.url.port, ssl=self._encryption)
        self.url = replace(self.url, port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if error is None and self._failures:
            raise self._failures[0]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        self.accepted_at.append(asyncio.get_running_loop().time())
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self._script(peer)
            await peer.gone()
        except AssertionError as failure:
            self._failures.append(failure)
        except (EOFError, OSError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.transport.abort()


def delivery(tag: int, message: bytes, channel: int = 1, raw_properties: bytes = b"\x00\x00") -> bytes:
    """Return the frames of one basic.deliver, its body in one frame; the properties as they shall be on the wire."""
    method = frames.marshal(commands.Basic.Deliver("consumer", tag, False, "", "queue"), channel)
    content = struct.pack(">HHQ", 60, 0, len(message)) + raw_properties
    head = _HEAD.pack(2, channel, len(content)) + content + b"\xce"
    return method + head + (frames.marshal(body.ContentBody(message), channel) if message else b"")


def answer_to(frame: frames.FrameTypes) -> base.Frame | None:
    match frame:
        case commands.Channel.Open():
            return commands.Channel.OpenOk()
        case commands.Channel.Close():
            return commands.Channel.CloseOk()
        case commands.Connection.Close():
            return commands.Connection.CloseOk()
        case commands.Confirm.Select():
            return commands.Confirm.SelectOk()
        case commands.Basic.Qos():
            return commands.Basic.QosOk()
        case commands.Basic.Consume():
            return commands.Basic.ConsumeOk(frame.consumer_tag)
        case commands.Basic.Cancel():
            return commands.Basic.CancelOk(frame.consumer_tag)
        case commands.Basic.Get():
            return commands.Basic.GetEmpty()
        case commands.Queue.Declare():
            return commands.Queue.DeclareOk(frame.queue, 0, 1)
        case commands.Queue.Bind():
            return commands.Queue.BindOk()
    return None
