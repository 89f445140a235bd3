"""The data plane: our protocol object of a broker connection, under aiormq's control plane.

aiormq connects through a `TransportFactory`. Ours puts a `DataPlane` on the socket: it takes the deliveries out of the
inbound bytes (`reader.FrameReader`) and feeds all other frames, whole, to the `StreamReader` that aiormq reads. We
encode settlements and publishes ourselves, and write them to the same transport, joined once per loop turn.

Publishes are bounded by `room_bytes`: the bytes that publishers may still write in this loop turn, 0 while the socket
or the broker takes no more. So unsent publishes wait in their publisher, and never in a buffer without a bound.

This module must not know queues, handlers, topology or reconnection.

Invariants:
- aiormq gets only whole frames, in order, and a heartbeat whenever any bytes came, because it times the peer's silence.
- Our writes overtake aiormq's, whose writer task runs a loop turn or more later. A caller that needs an order must wait
  for the answer to the library's request, or flush before it makes the request.
- aiormq writes nothing on a channel after its end, whatever was cancelled meanwhile (see `protocol/ended_channels.py`).
- The end of the connection reaches every registered channel exactly once, with a typed reason.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, cast

from aiormq.connection import TransportFactory
from yarl import URL

from mxworker.amqp.connecting.tls import client_context, tls_error, verification_error
from mxworker.amqp.protocol.ended_channels import EndedChannels
from mxworker.amqp.protocol.frames import HEARTBEAT
from mxworker.amqp.protocol.reader import ConsumerSink, FrameReader, PublisherSink
from mxworker.brokers import DEFAULT_TLS, Tls
from mxworker.errors import ConfigError, ConnectionLost, ProtocolViolation, TlsRefused
from mxworker.system.descriptors import claim, release
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

log = logging.getLogger(__name__)

# A paused transport would hold deliveries back until aiormq reads, so the reader of aiormq must never ask for a pause.
_NEVER_PAUSE_BYTES = 2**40
_HEARTBEAT_FEED_S = 1.0
_SHORTEST_LOOK_S = 0.05
_USER_TIMEOUT_FACTOR = 2
_ROOM_BYTES = 256 * 1024  # publishers may write this much in one loop turn, before the socket shows if it keeps up


class DataPlane(asyncio.StreamReaderProtocol):
    """The asyncio protocol of one broker connection. It is used once, from connect to connection_lost."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop, body_cap_bytes: int) -> None:
        super().__init__(reader, loop=loop)
        self.frames = FrameReader(body_cap_bytes)
        self.lost: asyncio.Future[ConnectionLost] = loop.create_future()
        """Resolves to the error when the connection has ended; never raises."""
        self.room_bytes = _ROOM_BYTES
        """The bytes that publishers may still write in this loop turn. A publisher subtracts what it writes."""
        self._on_room: Callable[[], None] | None = None
        self._is_congested = False
        self.unblocked_count = 0
        """How often the broker has taken publishes again, after it had blocked them."""
        self._blocked_reason: str | None = None
        self._user_timeout_ms = 0
        self._loop = loop
        self._wire: asyncio.Transport | None = None
        self._fd = -1
        self._error: ConnectionLost | None = None
        self._dirty: list[Callable[[], bytes]] = []
        self._is_reading = False
        self.was_silent = False
        """Whether the connection was ended because no byte came for two heartbeats."""
        self.was_aborted = False
        """Whether the connection was ended from this side, without a close in AMQP."""
        self.read_at = 0.0
        """The monotonic time of the last read, in seconds. The time of uvloop is up to a turn of the loop behind."""
        self._heard_at = loop.time()
        self._fed_at = self._heard_at
        self._watch: asyncio.TimerHandle | None = None

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport of the new connection."""
        self._wire = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._fd = sock.fileno()
            claim(self._fd)  # a process that a handler forks would keep the connection open after we exit
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Divert the frames of our channels and pass the others on. Every inbound byte goes through here."""
        if self._error is not None:
            return
        self.read_at = time.monotonic()
        self._is_reading = True
        try:
            passed = self.frames.feed(data)
        except ProtocolViolation as error:
            self.abort(error)
            return
        finally:
            self._is_reading = False
        now = self._loop.time()
        self._heard_at = now
        if self._watch is not None and now - self._fed_at >= _HEARTBEAT_FEED_S:
            self._fed_at = now
            passed += HEARTBEAT
        if passed:
            super().data_received(passed)
        if self.frames.blocked_reason != self._blocked_reason:
            self._change_block()

    def pause_writing(self) -> None:
        """Take no more publishes, because the buffer of the transport is full."""
        super().pause_writing()
        self._is_congested = True
        self.room_bytes = 0

    def resume_writing(self) -> None:
        """Take publishes again, because the buffer has drained."""
        super().resume_writing()
        self._is_congested = False
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell aiormq and every registered channel, exactly once."""
        error = self._error or self._reason(exc)
        self._error = error
        release(self._fd)
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(error)
        self.frames.end(error)
        if not self.lost.done():
            self.lost.set_result(error)

    def _reason(self, exc: Exception | None) -> ConnectionLost:
        if self.frames.close_reason is not None:
            code, text = self.frames.close_reason
            return ConnectionLost(f"the broker closed the connection: {code} {text}")
        lost = ConnectionLost(f"the connection broke: {foreign(exc)}" if exc else "the broker closed the socket")
        lost.__cause__ = exc
        return lost

    # ---- called by the connection and its channels

    def register(self, number: int, sink: ConsumerSink) -> None:
        """Divert the deliveries of channel `number` to `sink` until it ends; it may have ended already."""
        if self._error is not None:
            sink.on_end(self._error)
        else:
            self.frames.register(number, sink)

    def register_publisher(self, number: int, sink: PublisherSink, on_room: Callable[[], None]) -> None:
        """Divert the confirms and returns of channel `number` to `sink` until it ends; it may have ended already.

        `on_room` is called whenever `room_bytes` is above 0 again. It must be the same for all channels.
        """
        if self._error is not None:
            sink.on_end(self._error)
        else:
            self._on_room = on_room
            self.frames.register_publisher(number, sink)

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker blocks publishes now, or None (https://www.rabbitmq.com/docs/connection-blocked)."""
        return self._blocked_reason

    def write_soon(self, take: Callable[[], bytes]) -> None:
        """Write what `take` returns at the end of this loop turn, joined with the writes of other channels.

        A channel may call this once per loop turn, which bounds the list to one entry for each channel.
        """
        if not self._dirty:
            self._loop.call_soon(self._write_dirty)
        self._dirty.append(take)

    def write(self, data: bytes) -> None:
        """Write whole frames now. After the end of the connection, writes are dropped."""
        if data and self._error is None and self._wire is not None:
            self._wire.write(data)

    @property
    def may_write_now(self) -> bool:
        """Whether a publish may be written before the end of this loop turn.

        Not while other frames wait for it, not after the end of the connection or when its socket has broken, and not
        inside a read, since the rest of the read may be the end of the channel.
        """
        wire = self._wire
        return not (self._dirty or self._is_reading or self._error or wire is None or wire.is_closing())

    def _write_dirty(self) -> None:
        dirty, self._dirty = self._dirty, []
        if self._error is None:  # else `take` is not called, so that its owner knows that nothing was written
            self.write(b"".join([take() for take in dirty]))
            self._make_room()

    def _make_room(self) -> None:
        if self._is_congested or self._blocked_reason is not None or self._error is not None:
            return
        was_full = self.room_bytes <= 0
        self.room_bytes = _ROOM_BYTES
        if was_full and self._on_room is not None:
            self._on_room()

    def _change_block(self) -> None:
        """Stop or resume publishes after connection.blocked or connection.unblocked.

        A blocked broker reads nothing, and the kernel would end the connection when written bytes stay in its buffer
        for TCP_USER_TIMEOUT (tcp(7): "buffered data may remain untransmitted due to zero window size"). So that timeout
        is off while the broker blocks.
        """
        sock = self._wire.get_extra_info("socket") if self._wire is not None else None
        was_blocked = self._blocked_reason is not None
        self._blocked_reason = self.frames.blocked_reason
        if self._blocked_reason is None:
            self.unblocked_count += 1
            log.warning("the broker takes publishes again", extra=log_event("publishing_unblocked"))
            if sock is not None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout_ms)
            self._make_room()
            return
        self.room_bytes = 0
        facts = log_event("publishing_blocked", why=self._blocked_reason)
        log.warning("the broker takes no publishes: %s", self._blocked_reason, extra=facts)
        if sock is not None and not was_blocked:
            self._user_timeout_ms = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    def watch_peer(self, heartbeat_s: float) -> None:
        """From now on, end the connection when no byte came for twice `heartbeat_s` seconds.

        Call this after the handshake: from then on aiormq also gets heartbeats, which would break a handshake. aiormq
        alone would wait 3 * (heartbeat + 1) s (https://www.rabbitmq.com/docs/heartbeats).
        """
        now = self._loop.time()
        silent_at = self._heard_at + 2 * heartbeat_s
        look_at = max(min(silent_at, now + heartbeat_s / 2), now + _SHORTEST_LOOK_S)
        self._watch = self._loop.call_at(look_at, self._check_peer, heartbeat_s, now)

    def _check_peer(self, heartbeat_s: float, armed_at: float) -> None:
        now = self._loop.time()
        overslept = now - armed_at > heartbeat_s  # the loop was blocked, so unread bytes may wait in the socket
        if not overslept and now - self._heard_at >= 2 * heartbeat_s:
            self.was_silent = True
            self.abort(ConnectionLost(f"the broker was silent for {now - self._heard_at:.0f} s"))
            return
        self.watch_peer(heartbeat_s)

    def abort(self, error: ConnectionLost) -> None:
        """End the connection now, without closing it in AMQP. Everybody who uses it gets `error`."""
        if self._error is None:
            self._error = error
            self.was_aborted = True
            if self._wire is not None:
                self._wire.abort()


class _ControlWriter(asyncio.StreamWriter):
    """The writer of aiormq. It drops what the broker would answer with the end of the connection."""

    def __init__(self, transport: asyncio.Transport, plane: DataPlane, reader: asyncio.StreamReader) -> None:
        super().__init__(transport, plane, reader, asyncio.get_running_loop())
        self._channels = EndedChannels()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write whole frames of one channel, unless they come after its end."""
        if self._channels.lets_pass(data):
            super().write(data)


Wire = Callable[[asyncio.Protocol], asyncio.Transport]
"""Connects a protocol to a broker in this process, and returns its transport. There is no socket."""


class DataPlaneFactory(TransportFactory):
    """aiormq's transport hook: it connects a socket with a `DataPlane` on it. It makes one connection.

    Only the scheme of the URL decides whether TLS is used, with the files of `tls`. The library's own TLS context is
    not used. With `wire` there is no socket.
    """

    def __init__(self, body_cap_bytes: int, heartbeat_s: int, tls: Tls = DEFAULT_TLS, wire: Wire | None = None) -> None:
        self.plane: DataPlane | None = None
        self._body_cap_bytes = body_cap_bytes
        self._heartbeat_s = heartbeat_s
        self._tls = tls
        self._wire = wire

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to `url`, in plain text only for amqp://. Raises ConnectionLost or TlsRefused."""
        kwargs.pop("ssl_context_provider", None)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_NEVER_PAUSE_BYTES, loop=loop)
        plane = DataPlane(reader, loop, self._body_cap_bytes)
        transport = await self._connected(plane, url, kwargs) if self._wire is None else self._wire(plane)
        self.plane = plane
        return reader, _ControlWriter(transport, plane, reader)

    async def _connected(self, plane: DataPlane, url: URL, kwargs: dict[str, Any]) -> asyncio.Transport:
        host = url.host or ""
        encryption = {} if url.scheme == "amqp" else self._encryption(host)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(lambda: plane, host, url.port or 0, **encryption, **kwargs)
        except ssl.SSLCertVerificationError as error:
            raise verification_error(error, host) from error
        except ssl.SSLError as error:
            raise tls_error(error) from error
        except OSError as error:
            raise ConnectionLost(f"cannot connect: {_plain(error)}") from error
        self._tune_socket(transport.get_extra_info("socket"))
        return transport

    def _encryption(self, host: str) -> dict[str, Any]:
        try:
            return {"ssl": client_context(self._tls), "server_hostname": host}
        except ConfigError as error:  # the files were valid at the start, so somebody is renewing them
            raise TlsRefused(str(error)) from error

    def _tune_socket(self, sock: socket.socket) -> None:
        """Let the kernel give up on unacknowledged writes as early as our heartbeat check does (tcp(7))."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        timeout_ms = int(_USER_TIMEOUT_FACTOR * self._heartbeat_s * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)


def _plain(error: OSError) -> str:
    """Return the text of an error in an operator's words."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or str(error)
