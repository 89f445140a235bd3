"""A message to publish, and its encoded form.

    Message   the message of the application, with any Python value as its body
    Content   its bytes: an `Encoder` makes them once, and they are published any number of times

Every fault of a message is found here, before a byte of it is sent. Bodies are never pickled.

This module knows nothing about exchanges, routing keys and connections.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NoReturn, TypedDict

from mxworker.config.bounds import DEFAULT_MAX_PUBLISH_BYTES
from mxworker.errors import ConfigError, EncodeError, MessageTooLarge
from mxworker.payloads.compression import Compression
from mxworker.payloads.content_types import BYTES, JSON, TEXT, is_json
from mxworker.payloads.serializers import BUFFERS, Serializer, serialize, to_json
from mxworker.wire import field_table
from mxworker.wire.field_table import SHORT_STRING_BYTES
from mxworker.wire.properties import (
    FLAG_APP_ID,
    FLAG_CONTENT_ENCODING,
    FLAG_CONTENT_TYPE,
    FLAG_CORRELATION_ID,
    FLAG_DELIVERY_MODE,
    FLAG_EXPIRATION,
    FLAG_HEADERS,
    FLAG_MESSAGE_ID,
    FLAG_PRIORITY,
    FLAG_REPLY_TO,
    FLAG_TIMESTAMP,
    FLAG_TYPE,
)

DIRECT_REPLY_PREFIX = "amq.rabbitmq.reply-to."
"""The beginning of a direct reply's routing key, which is the `reply_to` of the request."""

_TRANSIENT, _PERSISTENT = 1, 2
_MORE_ROUTES = ("CC", "BCC")
_DIRECT_REPLY = "amq.rabbitmq.reply-to"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLAGS_BYTES, _SIZE_BYTES = 2, 4  # of the flags of properties, and of the size of a table
_flags = struct.Struct(">H").pack
_table_size = struct.Struct(">I").pack
_timestamp = struct.Struct(">Q").pack


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish. A property that is None is not sent, or is chosen by the publisher.

    `body`: bytes and str are sent unchanged, all other values as JSON, unless a serializer is registered for the
    content type. `content_type`: with None it follows from the body. `headers`: values may be None, bool, int, float,
    Decimal, str, bytes, a datetime with a time zone in whole seconds, and lists and dicts of those. `message_id`: one
    is made when it is None or empty. `persistent`: the message survives a restart of the broker in a durable queue.
    `priority`: 0 to 255. `expiration_ms`: milliseconds in the queue, after which the broker drops or dead-letters the
    message. `timestamp`: seconds since 1970, or a datetime with a time zone, of which the whole seconds are sent.
    `compression`: gzip, zstd or none.

    The values are checked when the message is encoded.
    """

    body: Any = None
    content_type: str | None = None
    headers: Mapping[str, Any] | None = None
    message_id: str | None = None
    persistent: bool = True
    priority: int | None = None
    expiration_ms: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    type: str | None = None
    app_id: str | None = None
    timestamp: int | datetime | None = None
    compression: str | None = None


class MessageOptions(TypedDict, total=False):
    """The properties of a message beside its body; see `Message`."""

    content_type: str | None
    headers: Mapping[str, Any] | None
    message_id: str | None
    persistent: bool
    priority: int | None
    expiration_ms: int | None
    correlation_id: str | None
    reply_to: str | None
    type: str | None
    app_id: str | None
    timestamp: int | datetime | None
    compression: str | None


class Content:
    """An encoded message, which may be published any number of times.

    Its properties on the wire are `head`, the message id as a short string, and `tail`. The flags in `head` announce
    the id, so you must write one: `message_id`, or a new one for each publish when that is None.
    """

    __slots__ = ("body", "head", "message_id", "tail")

    def __init__(self, head: bytes, message_id: bytes | None, tail: bytes, body: bytes) -> None:
        self.head = head
        self.message_id = message_id
        self.tail = tail
        self.body = body

    def with_headers(self, headers: Mapping[str, Any]) -> Content:
        """Return the content with these headers in place of those of the same names. Raises EncodeError."""
        flags = int.from_bytes(self.head[:_FLAGS_BYTES])
        at = _FLAGS_BYTES
        for flag in (FLAG_CONTENT_TYPE, FLAG_CONTENT_ENCODING):  # the properties before the headers are short strings
            if flags & flag:
                at += 1 + self.head[at]
        rest, kept = at, b""
        if flags & FLAG_HEADERS:
            rest = at + _SIZE_BYTES + int.from_bytes(self.head[at : at + _SIZE_BYTES])
            replaced = {name.encode() for name in headers}
            kept = field_table.in_order_of_names(self.head[at + _SIZE_BYTES : rest], replaced)
        table = kept + field_table.encode(headers)
        head = _flags(flags | FLAG_HEADERS) + self.head[_FLAGS_BYTES:at] + _table_size(len(table)) + table
        return Content(head + self.head[rest:], self.message_id, self.tail, self.body)

    def __repr__(self) -> str:
        return f"<Content id={self.message_id!r} {len(self.body)} bytes>"


class Copy(Content):
    """The content of a copy that mxworker makes of a message that it received."""

    __slots__ = ()


class Encoder:
    """Encodes bodies and messages. It has no state that changes, so threads may share it."""

    def __init__(
        self,
        compression: Compression | None = None,
        serializers: Mapping[str, Serializer] | None = None,
        max_body_bytes: int = DEFAULT_MAX_PUBLISH_BYTES,
    ) -> None:
        """`compression` is for messages that name none.

        `serializers` make the bodies of their content types, which are compared exactly, whatever the body is; one for
        application/json is also used for bodies without a content type. `max_body_bytes` bounds the body as it is sent,
        compressed or not: the broker closes the channel for a body above its own limit.
        """
        self._compression = compression
        self._serializers = dict(serializers or {})
        self._to_json = self._serializers.get(JSON, to_json)
        self.max_body_bytes = max_body_bytes

    def encode(self, message: Any, options: MessageOptions | None = None) -> Content:
        """Return the content of a body or of a `Message`; a `Content` is returned as it is.

        `options` are for a body alone. Raises EncodeError, which names the property that cannot be encoded, or
        MessageTooLarge.
        """
        if options:
            if isinstance(message, Message | Content):
                raise EncodeError("a Message has its options already; leave them out, or use dataclasses.replace")
            return self._message(Message(message, **options))
        if isinstance(message, Message):
            return self._message(message)
        if isinstance(message, Content):
            return message
        body, content_type = self._body(message)
        if self._compression is not None:
            sent, encoding = self._compressed(body, self._compression)
            if encoding is not None:
                return Content(_head(content_type, encoding), None, b"", self._bounded(sent))
        return Content(_PLAIN_HEADS[content_type], None, b"", self._bounded(body))

    def _message(self, message: Message) -> Content:
        _refuse_what_closes_the_channel(message)
        body, content_type = self._typed_body(message)
        body, encoding = self._compressed(body, self._compression_for(message))
        properties = _PropertyWriter()
        properties.short_string(FLAG_CONTENT_TYPE, "content_type", content_type)
        properties.short_string(FLAG_CONTENT_ENCODING, "content_encoding", encoding)
        properties.table(FLAG_HEADERS, message.headers)
        properties.octet(FLAG_DELIVERY_MODE, "delivery_mode", _PERSISTENT if message.persistent else _TRANSIENT)
        properties.octet(FLAG_PRIORITY, "priority", message.priority)
        properties.short_string(FLAG_CORRELATION_ID, "correlation_id", message.correlation_id)
        properties.short_string(FLAG_REPLY_TO, "reply_to", message.reply_to)
        properties.milliseconds(FLAG_EXPIRATION, "expiration_ms", message.expiration_ms)
        head = properties.take()
        properties.timestamp(FLAG_TIMESTAMP, "timestamp", message.timestamp)
        properties.short_string(FLAG_TYPE, "type", message.type)
        properties.short_string(FLAG_APP_ID, "app_id", message.app_id)
        tail = properties.take()
        message_id = None if message.message_id is None else _short("message_id", message.message_id)
        return Content(_flags(properties.flags | FLAG_MESSAGE_ID) + head, message_id, tail, self._bounded(body))

    def _typed_body(self, message: Message) -> tuple[bytes, str]:
        """Return the body in the message's own content type, and that type."""
        content_type = message.content_type
        if content_type is None:
            return self._body(message.body)
        serializer = self._serializers.get(content_type)
        if serializer is not None:
            return serialize(serializer, message.body, content_type), content_type
        body, natural_type = self._body(message.body)
        if natural_type is JSON and not is_json(content_type):
            _refuse("content_type", content_type, "no serializer is registered for it, and the body is no bytes or str")
        return body, content_type

    def _body(self, value: Any) -> tuple[bytes, str]:
        """Return the body and the content type that follow from the type of `value`."""
        if isinstance(value, bytes):
            return value, BYTES
        if isinstance(value, str):
            return serialize(_to_text, value, TEXT), TEXT
        if isinstance(value, BUFFERS):
            return bytes(value), BYTES
        return serialize(self._to_json, value, JSON), JSON

    def _compression_for(self, message: Message) -> Compression | None:
        ours, encoding = self._compression, message.compression
        if encoding is None:
            return ours
        if encoding == "none":
            return None
        if ours is not None and ours.encoding == encoding:
            return ours
        try:
            return Compression(encoding, threshold_bytes=(ours or Compression()).threshold_bytes)
        except ConfigError as error:
            raise EncodeError(f"compression is {encoding!r:.80}: {error}") from error

    def _compressed(self, body: bytes, compression: Compression | None) -> tuple[bytes, str | None]:
        """Return the body to send, and its content-encoding."""
        compressed = None if compression is None else compression.compress(body)
        return (body, None) if compression is None or compressed is None else (compressed, compression.encoding)

    def _bounded(self, body: bytes) -> bytes:
        if len(body) > self.max_body_bytes:
            raise MessageTooLarge(f"the body has {len(body)} bytes, the limit is {self.max_body_bytes}")
        return body


class _PropertyWriter:
    """Appends values in wire order, and sets their flags; None is not sent."""

    def __init__(self) -> None:
        self.flags = 0
        self._out = bytearray()

    def take(self) -> bytes:
        """Return the values that were appended since the last call."""
        values = bytes(self._out)
        self._out.clear()
        return values

    def short_string(self, flag: int, name: str, text: str | None) -> None:
        if text is not None:
            value = _short(name, text)
            self._append(flag, bytes((len(value),)) + value)

    def table(self, flag: int, headers: Mapping[str, Any] | None) -> None:
        if headers is not None:
            value = field_table.encode(headers)
            self._append(flag, _table_size(len(value)) + value)

    def octet(self, flag: int, name: str, number: int | None) -> None:
        if number is not None:
            self._append(flag, bytes((_whole(name, number, 8),)))

    def milliseconds(self, flag: int, name: str, number: int | None) -> None:
        """Write a number as text, as AMQP has expirations; RabbitMQ takes at most 32 bits."""
        if number is not None:
            value = b"%d" % _whole(name, number, 32)
            self._append(flag, bytes((len(value),)) + value)

    def timestamp(self, flag: int, name: str, moment: int | datetime | None) -> None:
        if isinstance(moment, datetime):
            if moment.utcoffset() is None:
                _refuse(name, moment, "it has no time zone")
            moment = (moment - _EPOCH) // timedelta(seconds=1)
        if moment is not None:
            self._append(flag, _timestamp(_whole(name, moment, 64)))

    def _append(self, flag: int, value: bytes) -> None:
        self.flags |= flag
        self._out += value


def check_route_name(name: str, value: object) -> None:
    """Raise EncodeError for a value that cannot be a routing key or the name of an exchange; `name` is for the text."""
    try:
        size = len(value.encode())  # type: ignore[attr-defined]
    except (AttributeError, UnicodeEncodeError):
        raise EncodeError(f"{name} must be text, not {value!r}") from None
    if size > SHORT_STRING_BYTES:
        raise EncodeError(f"{name} has {size} bytes; AMQP allows {SHORT_STRING_BYTES}")


def _short(name: str, text: str) -> bytes:
    """Return `text` as the content of a short string. Surrogates become the bytes that they stand for (PEP 383)."""
    if not isinstance(text, str):
        _refuse(name, text, "it is not a str")
    try:
        value = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        _refuse(name, text, f"it is not Unicode, {error.reason}")
    if len(value) > SHORT_STRING_BYTES:
        _refuse(name, text, f"it has {len(value)} bytes, the limit is {SHORT_STRING_BYTES}")
    return value


def _whole(name: str, number: int, bits: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        _refuse(name, number, "it is not a whole number")
    if not 0 <= number < 2**bits:
        _refuse(name, number, f"it is not from 0 to {2**bits - 1}")
    return number


def _refuse_what_closes_the_channel(message: Message) -> None:
    """Refuse messages for which RabbitMQ closes the channel with a 406: other publishes on it would end unconfirmed.

    https://www.rabbitmq.com/docs/sender-selected, https://www.rabbitmq.com/docs/direct-reply-to
    """
    for name in _MORE_ROUTES:
        keys = (message.headers or {}).get(name, [])
        if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
            _refuse(f"headers[{name!r}]", keys, "it must be a list of routing keys")
    if message.reply_to == _DIRECT_REPLY:  # the receiver gets another name, which is allowed
        _refuse("reply_to", message.reply_to, "a direct reply needs a consumer on the channel that publishes")


def _refuse(name: str, value: object, why: str) -> NoReturn:
    raise EncodeError(f"{name} is {value!r:.80}: {why}")


def _to_text(text: str) -> bytes:
    return text.encode("utf-8")


def _head(content_type: str, encoding: str | None = None) -> bytes:
    """Return the head of a persistent message without further properties."""
    properties = _PropertyWriter()
    properties.short_string(FLAG_CONTENT_TYPE, "content_type", content_type)
    properties.short_string(FLAG_CONTENT_ENCODING, "content_encoding", encoding)
    properties.octet(FLAG_DELIVERY_MODE, "delivery_mode", _PERSISTENT)
    return _flags(properties.flags | FLAG_MESSAGE_ID) + properties.take()


_PLAIN_HEADS: Mapping[str, bytes] = MappingProxyType({name: _head(name) for name in (BYTES, TEXT, JSON)})
