"""What is received: a delivery and its properties.

A delivery keeps what came on the wire and decodes it when somebody asks. Decoding is tolerant: text that is not UTF-8
survives as surrogates (PEP 383), a number is what the publisher wrote, and a property section that is cut short loses
what follows the cut, never the delivery.

Must not know how a delivery is settled on the wire.
"""

from __future__ import annotations

import struct
from typing import Protocol

_FLAG_CONTENT_TYPE = 1 << 15
_FLAG_CONTENT_ENCODING = 1 << 14
_FLAG_HEADERS = 1 << 13
_FLAG_DELIVERY_MODE = 1 << 12
_FLAG_PRIORITY = 1 << 11
_FLAG_CORRELATION_ID = 1 << 10
_FLAG_REPLY_TO = 1 << 9
_FLAG_EXPIRATION = 1 << 8
_FLAG_MESSAGE_ID = 1 << 7
_FLAG_TIMESTAMP = 1 << 6
_FLAG_TYPE = 1 << 5
_FLAG_USER_ID = 1 << 4
_FLAG_APP_ID = 1 << 3

_flags = struct.Struct(">H").unpack_from
_table_size = struct.Struct(">I").unpack_from
_timestamp = struct.Struct(">Q").unpack_from


class Source(Protocol):
    """Where a delivery came from and is settled: one incarnation of a channel.

    Each of the three ends the delivery; they return False when it was stale, so that nothing was sent.
    """

    is_lost: bool
    """Whether that channel has ended, so that the broker delivers its unsettled messages again."""

    def ack(self, delivery: Delivery) -> bool:
        """Settle as done."""

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        """Settle as failed."""

    def give_back(self, delivery: Delivery) -> bool:
        """Settle as not processed: back to the queue."""


class Properties:
    """The scalar properties of a message (AMQP 0-9-1, 1.8); what was not sent, or cannot be read, is None.

    `timestamp` is the publisher's number as it stands: seconds by the standard, but not checked. `expiration` is text,
    as the standard has it. `headers_raw` is the header table as on the wire, without its length.
    """

    __slots__ = (
        "app_id",
        "content_encoding",
        "content_type",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "headers_raw",
        "message_id",
        "priority",
        "reply_to",
        "timestamp",
        "type",
        "user_id",
    )

    content_type: str | None
    content_encoding: str | None
    headers_raw: bytes | None
    delivery_mode: int | None
    priority: int | None
    correlation_id: str | None
    reply_to: str | None
    expiration: str | None
    message_id: str | None
    timestamp: int | None
    type: str | None
    user_id: str | None
    app_id: str | None

    def __init__(self, raw: bytes) -> None:
        """Read `raw`, the property flags and values as on the wire. Never raises."""
        reader = _PropertyReader(raw)
        self.content_type = reader.text(_FLAG_CONTENT_TYPE)
        self.content_encoding = reader.text(_FLAG_CONTENT_ENCODING)
        self.headers_raw = reader.table(_FLAG_HEADERS)
        self.delivery_mode = reader.octet(_FLAG_DELIVERY_MODE)
        self.priority = reader.octet(_FLAG_PRIORITY)
        self.correlation_id = reader.text(_FLAG_CORRELATION_ID)
        self.reply_to = reader.text(_FLAG_REPLY_TO)
        self.expiration = reader.text(_FLAG_EXPIRATION)
        self.message_id = reader.text(_FLAG_MESSAGE_ID)
        self.timestamp = reader.timestamp(_FLAG_TIMESTAMP)
        self.type = reader.text(_FLAG_TYPE)
        self.user_id = reader.text(_FLAG_USER_ID)
        self.app_id = reader.text(_FLAG_APP_ID)


class _PropertyReader:
    """Reads the values in wire order. Once a value runs past the end, it and all later ones are None."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._flags = _flags(raw)[0] if len(raw) >= 2 else 0
        # The lowest bit announces another flag word; no such property is defined, so a claim of one is not believed.
        self._at = 2

    def _take(self, flag: int, prefix: int, size: int) -> bytes | None:
        if not self._flags & flag:
            return None
        start = self._at + prefix
        self._at = start + size
        if self._at > len(self._raw):
            self._flags = 0
            return None
        return self._raw[start : self._at]

    def text(self, flag: int) -> str | None:
        size = self._raw[self._at] if self._at < len(self._raw) else 0
        value = self._take(flag, 1, size)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def octet(self, flag: int) -> int | None:
        value = self._take(flag, 0, 1)
        return None if value is None else value[0]

    def timestamp(self, flag: int) -> int | None:
        value = self._take(flag, 0, 8)
        return None if value is None else int(_timestamp(value)[0])

    def table(self, flag: int) -> bytes | None:
        size = _table_size(self._raw, self._at)[0] if self._at + 4 <= len(self._raw) else 0
        return self._take(flag, 4, size)


def message_id_bytes(raw: bytes) -> bytes:
    """Return the message id in raw properties, as sent; b"" when there is none or it cannot be reached.

    The hot path records it for every started delivery, so it walks the flags without building `Properties`.
    """
    try:
        (flags,) = _flags(raw)
        if not flags & _FLAG_MESSAGE_ID:
            return b""
        at = 2
        if flags & _FLAG_CONTENT_TYPE:
            at += 1 + raw[at]
        if flags & _FLAG_CONTENT_ENCODING:
            at += 1 + raw[at]
        if flags & _FLAG_HEADERS:
            at += 4 + _table_size(raw, at)[0]
        if flags & _FLAG_DELIVERY_MODE:
            at += 1
        if flags & _FLAG_PRIORITY:
            at += 1
        if flags & _FLAG_CORRELATION_ID:
            at += 1 + raw[at]
        if flags & _FLAG_REPLY_TO:
            at += 1 + raw[at]
        if flags & _FLAG_EXPIRATION:
            at += 1 + raw[at]
        end = at + 1 + raw[at]
        return raw[at + 1 : end] if end <= len(raw) else b""
    except (IndexError, struct.error):
        return b""


def _split_route(route: bytes) -> tuple[str, str]:
    """Return exchange and routing key, two short strings one after the other; what is cut short is ''."""
    middle = 1 + route[0] if route else 0
    key = route[middle + 1 : middle + 1 + route[middle]] if middle < len(route) else b""
    return route[1:middle].decode("utf-8", "surrogateescape"), key.decode("utf-8", "surrogateescape")


class Delivery:
    """One message as the broker delivered it.

    `body` is the bytes as published. `delivery_tag` is unique on its channel only. `redelivered` says that the broker
    may have delivered it before.
    """

    __slots__ = ("_properties", "_route", "body", "delivery_tag", "raw_properties", "redelivered", "source")

    def __init__(
        self, body: bytes, raw_properties: bytes, route: bytes, redelivered: bool, delivery_tag: int, source: Source
    ) -> None:
        """Keep what came; `route` and `raw_properties` are as on the wire."""
        self.body = body
        self.raw_properties = raw_properties
        self.redelivered = redelivered
        self.delivery_tag = delivery_tag
        self.source = source
        self._route = route
        self._properties: Properties | None = None

    @property
    def properties(self) -> Properties:
        """The message's properties, decoded at the first use."""
        if self._properties is None:
            self._properties = Properties(self.raw_properties)
        return self._properties

    @property
    def exchange(self) -> str:
        """The exchange it was published to; '' is the default exchange."""
        return _split_route(self._route)[0]

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
        return _split_route(self._route)[1]

    @property
    def message_id(self) -> str | None:
        """The application's message id."""
        return self.properties.message_id

    @property
    def is_stale(self) -> bool:
        """Whether the channel it came on has ended: the broker delivers it again, and settling it does nothing."""
        return self.source.is_lost

    def __repr__(self) -> str:
        return f"<Delivery {self.delivery_tag} {self.routing_key!r} id={self.message_id!r} {len(self.body)} bytes>"
