"""A blocking AMQP client that shows everything: each method, each close with its code and text, raw bytes if wanted.

It stands apart from both brokers and from the libraries that mxworker uses; pamqp encodes and decodes frames.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pamqp import commands, header
from pamqp import frame as frames
from pamqp.base import Frame

from tests.rabbit.answered import answered

TIMEOUT_S = 30.0
CAPABILITIES = ("consumer_cancel_notify", "connection.blocked", "authentication_failure_close", "basic.nack")
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_head = struct.Struct(">BHI")


class Closed(Exception):
    """The broker closed a channel or the connection."""

    def __init__(self, method: commands.Channel.Close | commands.Connection.Close) -> None:
        super().__init__(f"{method.reply_code} {method.reply_text}")
        self.of_connection = isinstance(method, commands.Connection.Close)
        self.code = method.reply_code
        self.text = method.reply_text
        self.method = (method.class_id, method.method_id)


@dataclass
class Content:
    """A method with a message: a delivery, the answer to a get, or a return."""

    method: Any
    properties: commands.Basic.Properties
    body: bytes

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}

    @property
    def tag(self) -> int:
        return int(self.method.delivery_tag)

    @property
    def redelivered(self) -> bool:
        return bool(self.method.redelivered)


class Wire:
    """A connection. `opened=False` leaves the handshake to the test."""

    def __init__(
        self,
        url: str,
        *,
        opened: bool = True,
        heartbeat: int = 0,
        frame_max: int = 131_072,
        channel_max: int = 2047,
        capabilities: tuple[str, ...] = CAPABILITIES,
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        self.user, self.password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        self.vhost = unquote(parts.path[1:]) or "/"
        self.frame_max = frame_max
        self.capabilities = capabilities
        self.server_properties: Mapping[str, Any] = {}
        self.heartbeats = 0
        self._socket = socket.create_connection((parts.hostname or "localhost", parts.port or 5672), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._inbox: dict[int, deque[Any]] = {}
        self._partial: dict[int, list[Any]] = {}
        self._channels = 0
        if opened:
            self.open(heartbeat, channel_max)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, heartbeat: int = 0, channel_max: int = 2047) -> None:
        self.send_bytes(b"AMQP\x00\x00\x09\x01")
        self.server_properties = self.expect(0, commands.Connection.Start).server_properties or {}
        self.send(self.start_ok())
        self.expect(0, commands.Connection.Tune)
        self.send(commands.Connection.TuneOk(channel_max, self.frame_max, heartbeat))
        self.send(commands.Connection.Open(self.vhost))
        self.expect(0, commands.Connection.OpenOk)

    def start_ok(self, mechanism: str = "PLAIN", password: str | None = None) -> commands.Connection.StartOk:
        properties = {"capabilities": dict.fromkeys(self.capabilities, True)}
        secret = self.password if password is None else password
        return commands.Connection.StartOk(properties, mechanism, f"\0{self.user}\0{secret}", "en_US")

    def channel(self) -> Channel:
        self._channels += 1
        opened = Channel(self, self._channels)
        opened.call(commands.Channel.Open())
        return opened

    def close(self) -> None:
        try:
            self.send(commands.Connection.Close(200, "bye", 0, 0))
            while not isinstance(self.read(0), commands.Connection.CloseOk):
                pass
        except (OSError, Closed):
            pass
        self._socket.close()

    def kill(self) -> None:
        """End the connection without a word."""
        self._socket.close()

    def send(self, method: Frame, channel: int = 0) -> None:
        self.send_bytes(frames.marshal(method, channel))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def expect(self, channel: int, kind: type[Any], timeout_s: float = TIMEOUT_S) -> Any:
        got = self.read(channel, timeout_s)
        method = got.method if isinstance(got, Content) else got
        assert isinstance(method, kind), f"expected {kind.name}, got {got!r}"
        return got

    def read(self, channel: int, timeout_s: float = TIMEOUT_S) -> Any:
        """Return the next method of a channel, or Content; a close is answered, then raised. TimeoutError."""
        deadline = time.monotonic() + timeout_s
        inbox = self._inbox.setdefault(channel, deque())
        while not inbox:
            self._pump(deadline)
        got = inbox.popleft()
        if isinstance(got, commands.Channel.Close):
            self.send(commands.Channel.CloseOk(), channel)
            raise Closed(got)
        if isinstance(got, commands.Connection.Close):
            self.send(commands.Connection.CloseOk())
            raise Closed(got)
        return got

    def at_end(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Read until the broker closes the socket."""
        self._socket.settimeout(timeout_s)
        try:
            while self._socket.recv(65536):
                pass
        except ConnectionError:
            return True
        return True

    def receive(self, size: int) -> bytes:
        """Return raw bytes; fewer at the end of the stream."""
        while len(self._received) < size and (data := self._socket.recv(65536)):
            self._received += data
        got, self._received = self._received[:size], self._received[size:]
        return got

    def _pump(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the broker closed the socket")
        self._received += data
        at = 0
        while len(self._received) - at >= 8:
            kind, channel, size = _head.unpack_from(self._received, at)
            end = at + 8 + size
            if end > len(self._received):
                break
            self._on_frame(kind, channel, self._received[at:end])
            at = end
        self._received = self._received[at:]

    def _on_frame(self, kind: int, channel: int, raw: bytes) -> None:
        inbox = self._inbox.setdefault(channel, deque())
        payload = raw[7:-1]
        if kind == _HEARTBEAT:
            self.heartbeats += 1
        elif kind == _METHOD:
            method = frames.unmarshal(raw)[2]
            if isinstance(method, commands.Basic.Deliver | commands.Basic.GetOk | commands.Basic.Return):
                self._partial[channel] = [method]
            elif isinstance(method, commands.Connection.Close):
                for each in self._inbox.values():
                    each.append(method)
            else:
                inbox.append(method)
        elif kind == _HEADER:
            content = header.ContentHeader()
            content.unmarshal(payload)
            self._partial[channel] += [content, bytearray()]
            self._complete(channel)
        else:
            self._partial[channel][2] += payload
            self._complete(channel)

    def _complete(self, channel: int) -> None:
        method, content, body = self._partial[channel]
        if len(body) == content.body_size:
            self._inbox[channel].append(Content(method, content.properties, bytes(body)))
            del self._partial[channel]


class Channel:
    """A channel of a Wire."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.wire = wire
        self.number = number

    def send(self, method: Frame) -> None:
        self.wire.send(method, self.number)

    def call(self, method: Frame) -> Any:
        """Send a method and return the answer; what came before it, such as deliveries, stays to be read."""
        self.send(method)
        return self.answer(*(name.replace(".", "") for name in type(method).valid_responses))

    def answer(self, *names: str) -> Any:
        inbox = self.wire._inbox.setdefault(self.number, deque())
        others = []
        while True:
            got = self.read()
            shown = got.method if isinstance(got, Content) else got
            if shown.name.replace(".", "") in names:
                inbox.extendleft(reversed(others))
                return got
            others.append(got)

    def read(self, timeout_s: float = TIMEOUT_S) -> Any:
        return self.wire.read(self.number, timeout_s)

    def expect(self, kind: type[Any]) -> Any:
        return self.wire.expect(self.number, kind)

    def is_quiet(self, for_s: float = 0.3) -> bool:
        """Tell whether nothing comes: all that was sent has been worked on, and a moment has passed."""
        try:
            got = self.read(for_s)
        except TimeoutError:
            return True
        raise AssertionError(f"nothing was expected, but {got!r} came")

    def declare(self, queue: str, **options: Any) -> Any:
        return self.call(commands.Queue.Declare(queue=queue, **options))

    def counts(self, queue: str) -> tuple[int, int]:
        def ask() -> tuple[int, int]:
            answer = self.declare(queue, passive=True)
            return answer.message_count, answer.consumer_count

        return answered(ask, lambda: self.call(commands.Channel.Flow(active=True)))

    def bind(self, queue: str, exchange: str, key: str = "", **arguments: Any) -> None:
        self.call(commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments))

    def publish(
        self,
        routing_key: str,
        body: bytes = b"body",
        *,
        exchange: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        **properties: Any,
    ) -> None:
        """Send a message; nothing is waited for."""
        self.wire.send_bytes(
            self.encoded_publish(
                routing_key, body, exchange=exchange, mandatory=mandatory, immediate=immediate, **properties
            )
        )

    def encoded_publish(
        self,
        routing_key: str,
        body: bytes = b"body",
        *,
        exchange: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        **properties: Any,
    ) -> bytes:
        """Return what `publish` sends."""
        method = commands.Basic.Publish(
            exchange=exchange, routing_key=routing_key, mandatory=mandatory, immediate=immediate
        )
        content = header.ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
        most = self.wire.frame_max - 8
        pieces = [frames.marshal(method, self.number), frames.marshal(content, self.number)]
        for at in range(0, len(body), most):
            piece = body[at : at + most]
            pieces.append(_head.pack(_BODY, self.number, len(piece)) + piece + b"\xce")
        return b"".join(pieces)

    def confirm(self) -> None:
        self.call(commands.Confirm.Select())

    def confirmed(self, last: int) -> list[tuple[str, int]]:
        """Read confirms until the publish `last` is decided; return what each publish got, in order."""
        decided: dict[int, str] = {}
        while last not in decided:
            got = self.read()
            name = type(got).__name__.lower()
            first = min(set(range(1, got.delivery_tag + 1)) - decided.keys()) if got.multiple else got.delivery_tag
            for tag in range(first, got.delivery_tag + 1):
                decided.setdefault(tag, name)
        return [(decided[tag], tag) for tag in sorted(decided)]

    def get(self, queue: str, no_ack: bool = True) -> Content | None:
        got = self.call(commands.Basic.Get(queue=queue, no_ack=no_ack))
        return got if isinstance(got, Content) else None

    def drain(self, queue: str) -> list[bytes]:
        bodies = []
        while (got := self.get(queue)) is not None:
            bodies.append(got.body)
        return bodies

    def consume(self, queue: str, **options: Any) -> str:
        return str(self.call(commands.Basic.Consume(queue=queue, **options)).consumer_tag)

    def delivery(self, timeout_s: float = TIMEOUT_S) -> Content:
        got = self.read(timeout_s)
        assert isinstance(got, Content), got
        assert isinstance(got.method, commands.Basic.Deliver), got.method
        return got

    def deliveries(self, count: int) -> list[Content]:
        return [self.delivery() for _ in range(count)]

    def qos(self, count: int, *, all_consumers: bool = False) -> None:
        self.call(commands.Basic.Qos(prefetch_count=count, global_=all_consumers))

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.send(commands.Basic.Ack(tag, multiple))

    def nack(self, tag: int, multiple: bool = False, requeue: bool = True) -> None:
        self.send(commands.Basic.Nack(tag, multiple, requeue))

    def sync(self) -> None:
        """Return when the broker has worked on all that was sent on this channel."""
        self.call(commands.Basic.Qos(prefetch_count=0, global_=False))
