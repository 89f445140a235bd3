"""A plain AMQP client for tests: one blocking socket, one channel, publisher confirms always on.

It stands apart from what it tests: no mxworker, no aio-pika, no event loop. pamqp encodes and decodes method frames;
the properties of messages stay bytes until a test asks for them, so hostile ones can be sent and read back. It asks for
no heartbeats, so it may lie idle. Calls block: in an async test a short call is fine, for a long one use
`asyncio.to_thread`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pamqp import commands, header
from pamqp import frame as frames
from pamqp.base import Frame

from tests.rabbit.answered import answered

TIMEOUT_S = 30.0
PUBLISH_CHUNK = 256  # publishes sent before their confirms are read; few enough that no socket buffer fills up
GET_CHUNK = 100
KEEPS_RETURNED = {"x-delivery-limit": 2**31 - 1}
_DELIVERED_UNASKED = 2000  # as much as a quorum queue delivers to a consumer without a prefetch
_CHANNEL = 1
_GREETING = b"AMQP\x00\x00\x09\x01"
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_FRAME = struct.Struct(">BHI")
_CONTENT_HEADER = struct.Struct(">HHQ")
_BASIC_CLASS = 60

M = TypeVar("M", bound=Frame)


class Refused(Exception):
    """The broker closed the channel (a new one was opened) or the connection; `code` is its reply code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


class NotConfirmed(Exception):
    """The broker nacked a publish, or returned it as unroutable."""


class Counts(NamedTuple):
    """What a passive declare tells: messages *ready* (unacknowledged ones are not counted) and consumers."""

    messages: int
    consumers: int


@dataclass(frozen=True)
class Received:
    """A message taken from a queue."""

    body: bytes
    raw_properties: bytes
    exchange: str
    routing_key: str
    redelivered: bool

    @cached_property
    def properties(self) -> commands.Basic.Properties:
        """The decoded properties; pamqp raises on hostile ones."""
        content = header.ContentHeader()
        content.unmarshal(_CONTENT_HEADER.pack(_BASIC_CLASS, 0, len(self.body)) + self.raw_properties)
        properties = content.properties
        assert isinstance(properties, commands.Basic.Properties)
        return properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """The decoded headers; empty when there are none."""
        return self.properties.headers or {}


class Client:
    """Connects when made; use it as a context manager, or call `close()`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "localhost", parts.port or 5672), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self._frame_max = 0
        self._last_tag = 0
        self._handshake(unquote(parts.username or "guest"), unquote(parts.password or "guest"), unquote(parts.path[1:]))
        self._open_channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The broker being gone is no error."""
        try:
            self._send(commands.Connection.Close(200, "bye", 0, 0), channel=0)
            while not isinstance(self._read_method(), commands.Connection.CloseOk):
                pass
        except (OSError, Refused):
            pass
        finally:
            self._stream.close()
            self._socket.close()

    def declare(
        self,
        queue: str,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Counts:
        """Declare `queue`; Refused (406) when it exists and is another one."""
        return self._declare(
            commands.Queue.Declare(
                queue=queue,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=dict(arguments or {}),
            )
        )

    def declare_quorum(self, queue: str, **arguments: Any) -> Counts:
        """Declare a quorum queue; `x_max_length=10` becomes the argument `x-max-length`.

        It keeps what is given back, as those of mxworker do: without a limit of its own RabbitMQ 4 has one of 20.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.declare(queue, arguments={"x-queue-type": "quorum", **KEEPS_RETURNED, **named})

    def counts(self, queue: str) -> Counts:
        """Return how many messages are ready and how many consumers there are; Refused (404) when it is missing."""
        return answered(
            lambda: self._declare(commands.Queue.Declare(queue=queue, passive=True)),
            lambda: self._call(commands.Channel.Flow(active=True), commands.Channel.FlowOk),
        )

    def exists(self, queue: str) -> bool:
        """Say whether `queue` exists."""
        try:
            self.counts(queue)
        except Refused as refused:
            if refused.code == 404:
                return False
            raise
        return True

    def delete(self, queue: str, *, if_empty: bool = False) -> int:
        """Delete `queue` with all it holds and return how many messages that were; a missing one counts 0.

        With `if_empty` Refused (406) when it holds any; quorum queues do not know that.
        """
        delete = commands.Queue.Delete(queue=queue, if_empty=if_empty)
        return self._call(delete, commands.Queue.DeleteOk).message_count or 0

    def purge(self, queue: str) -> int:
        """Delete the ready messages of `queue` and return how many that were."""
        return self._call(commands.Queue.Purge(queue=queue), commands.Queue.PurgeOk).message_count or 0

    def declare_exchange(self, exchange: str, kind: str = "direct") -> None:
        """Declare a durable exchange."""
        declare = commands.Exchange.Declare(exchange=exchange, exchange_type=kind, durable=True)
        self._call(declare, commands.Exchange.DeclareOk)

    def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange; a missing one is no error."""
        self._call(commands.Exchange.Delete(exchange=exchange), commands.Exchange.DeleteOk)

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Bind `queue` to `exchange`."""
        bind = commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=routing_key)
        self._call(bind, commands.Queue.BindOk)

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Take a binding away; a missing one is no error."""
        unbind = commands.Queue.Unbind(queue=queue, exchange=exchange, routing_key=routing_key)
        self._call(unbind, commands.Queue.UnbindOk)

    def publish(
        self,
        routing_key: str,
        bodies: Iterable[bytes],
        properties: commands.Basic.Properties | None = None,
        *,
        exchange: str = "",
    ) -> int:
        """Publish `bodies`, all with the same properties (default: persistent), and return how many were confirmed.

        NotConfirmed when one was nacked or could not be routed.
        """
        raw = (properties or commands.Basic.Properties(delivery_mode=2)).marshal()
        return self._publish(exchange, routing_key, ((body, raw) for body in bodies))

    def publish_messages(
        self, routing_key: str, messages: Iterable[tuple[bytes, commands.Basic.Properties]], *, exchange: str = ""
    ) -> int:
        """Do as `publish` does, with properties for each body."""
        return self._publish(exchange, routing_key, ((body, properties.marshal()) for body, properties in messages))

    def publish_raw(self, routing_key: str, body: bytes, properties: bytes, *, exchange: str = "") -> None:
        """Publish `body` with hand-made property bytes (see `raw`)."""
        self._publish(exchange, routing_key, [(body, properties)])

    def get(self, queue: str) -> Received | None:
        """Take one message out of `queue`; None when it is empty."""
        return next(iter(self._get(queue, 1)), None)

    def hold(self, queue: str, count: int) -> list[Received]:
        """Consume `queue` until `count` messages were delivered; they go back when the connection ends."""
        if count > _DELIVERED_UNASKED:
            self._call(commands.Basic.Qos(prefetch_count=count), commands.Basic.QosOk)
        self._call(commands.Basic.Consume(queue=queue), commands.Basic.ConsumeOk)
        held = []
        for _ in range(count):
            got = self._expect(commands.Basic.Deliver)
            raw, body = self._read_content()
            held.append(Received(body, raw, got.exchange, got.routing_key or "", bool(got.redelivered)))
        return held

    def drain(self, queue: str) -> list[Received]:
        """Take everything that is ready out of `queue`."""
        drained: list[Received] = []
        while True:
            batch = self._get(queue, GET_CHUNK)
            drained += batch
            if len(batch) < GET_CHUNK:
                return drained

    def _declare(self, declare: commands.Queue.Declare) -> Counts:
        answer = self._call(declare, commands.Queue.DeclareOk)
        return Counts(answer.message_count or 0, answer.consumer_count or 0)

    def _publish(self, exchange: str, routing_key: str, messages: Iterable[tuple[bytes, bytes]]) -> int:
        method = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
        publish = frames.marshal(method, _CHANNEL)
        waiting = iter(messages)
        published = 0
        while chunk := list(islice(waiting, PUBLISH_CHUNK)):
            self._socket.sendall(b"".join(publish + self._content(body, raw) for body, raw in chunk))
            self._await_confirms(len(chunk))
            published += len(chunk)
        return published

    def _content(self, body: bytes, properties: bytes) -> bytes:
        limit = self._frame_max - _FRAME.size - len(_END)
        content = _frame(_HEADER, _CONTENT_HEADER.pack(_BASIC_CLASS, 0, len(body)) + properties)
        return content + b"".join(_frame(_BODY, body[at : at + limit]) for at in range(0, len(body), limit))

    def _await_confirms(self, count: int) -> None:
        pending = set(range(self._last_tag + 1, self._last_tag + count + 1))
        self._last_tag += count
        refused: list[str] = []
        while pending:
            match self._read_method():
                case commands.Basic.Ack() as ack:
                    pending -= _settled(pending, ack)
                case commands.Basic.Nack() as nack:
                    settled = _settled(pending, nack)
                    refused.append(f"{len(settled)} nacked")
                    pending -= settled
                case commands.Basic.Return() as returned:
                    self._read_content()
                    refused.append(f"returned: {returned.reply_code} {returned.reply_text}")
        if refused:
            raise NotConfirmed("; ".join(refused))

    def _get(self, queue: str, count: int) -> list[Received]:
        get = frames.marshal(commands.Basic.Get(queue=queue, no_ack=True), _CHANNEL)
        self._socket.sendall(get * count)
        received: list[Received] = []
        for _ in range(count):
            match self._read_method():
                case commands.Basic.GetOk() as got:
                    raw, body = self._read_content()
                    received.append(Received(body, raw, got.exchange, got.routing_key or "", bool(got.redelivered)))
                case commands.Basic.GetEmpty():
                    pass
                case other:
                    raise AssertionError(f"unexpected answer to basic.get: {other!r}")
        return received

    def _handshake(self, user: str, password: str, vhost: str) -> None:
        self._socket.sendall(_GREETING)
        self._expect(commands.Connection.Start)
        start = commands.Connection.StartOk(mechanism="PLAIN", response=f"\0{user}\0{password}")
        self._send(start, channel=0)
        tune = self._expect(commands.Connection.Tune)
        self._frame_max = tune.frame_max or 131_072
        self._send(commands.Connection.TuneOk(tune.channel_max, self._frame_max, 0), channel=0)
        self._send(commands.Connection.Open(vhost or "/"), channel=0)
        self._expect(commands.Connection.OpenOk)

    def _open_channel(self) -> None:
        self._call(commands.Channel.Open(), commands.Channel.OpenOk)
        self._call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        self._last_tag = 0

    def _call(self, method: Frame, answer: type[M]) -> M:
        self._send(method)
        return self._expect(answer)

    def _expect(self, answer: type[M]) -> M:
        method = self._read_method()
        if not isinstance(method, answer):
            raise AssertionError(f"expected {answer.name}, the broker sent {method!r}")
        return method

    def _send(self, method: Frame, channel: int = _CHANNEL) -> None:
        self._socket.sendall(frames.marshal(method, channel))

    def _read_method(self) -> Frame:
        """Return the next method; a close is answered first, then raised as Refused."""
        kind, raw = self._read_frame()
        if kind != _METHOD:
            raise AssertionError(f"expected a method frame, the broker sent one of type {kind}")
        method = frames.unmarshal(raw)[2]
        match method:
            case commands.Channel.Close():
                self._send(commands.Channel.CloseOk())
                self._open_channel()
                raise Refused(method.reply_code or 0, method.reply_text)
            case commands.Connection.Close():
                self._send(commands.Connection.CloseOk(), channel=0)
                raise Refused(method.reply_code or 0, method.reply_text)
        assert isinstance(method, Frame)
        return method

    def _read_content(self) -> tuple[bytes, bytes]:
        """Return property bytes and body of the message whose method was just read."""
        _, raw = self._read_frame()
        payload = raw[_FRAME.size : -1]
        _, _, size = _CONTENT_HEADER.unpack_from(payload)
        body = b""
        while len(body) < size:
            body += self._read_frame()[1][_FRAME.size : -1]
        return payload[_CONTENT_HEADER.size :], body

    def _read_frame(self) -> tuple[int, bytes]:
        """Return type and bytes of the next frame that is not a heartbeat."""
        while True:
            head = self._read_exactly(_FRAME.size)
            kind, _, size = _FRAME.unpack(head)
            rest = self._read_exactly(size + len(_END))
            if kind != _HEARTBEAT:
                return kind, head + rest

    def _read_exactly(self, count: int) -> bytes:
        received = self._stream.read(count)
        if len(received) < count:
            raise ConnectionError("the broker closed the connection")
        return received


def _frame(kind: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, _CHANNEL, len(payload)) + payload + _END


def _settled(pending: set[int], confirm: commands.Basic.Ack | commands.Basic.Nack) -> set[int]:
    tag = confirm.delivery_tag or 0
    return {number for number in pending if number <= tag} if confirm.multiple else {tag}
