"""The properties of a message as on the wire, in the content header (AMQP 0-9-1, 4.2.6.1).

Reading is tolerant: text that is not UTF-8 survives as surrogates (PEP 383), a number is what the publisher wrote, and
a truncated property section loses the properties after the cut, but never the delivery.

A word of flags says which properties are present. Their values follow in the order of the flags, the highest first.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from mxworker.errors import DecodeError
from mxworker.wire import field_table

FLAG_CONTENT_TYPE = 1 << 15
FLAG_CONTENT_ENCODING = 1 << 14
FLAG_HEADERS = 1 << 13
FLAG_DELIVERY_MODE = 1 << 12
FLAG_PRIORITY = 1 << 11
FLAG_CORRELATION_ID = 1 << 10
FLAG_REPLY_TO = 1 << 9
FLAG_EXPIRATION = 1 << 8
FLAG_MESSAGE_ID = 1 << 7
FLAG_TIMESTAMP = 1 << 6
FLAG_TYPE = 1 << 5
FLAG_USER_ID = 1 << 4
FLAG_APP_ID = 1 << 3
_FLAG_CLUSTER_ID = 1 << 2  # a property of AMQP 0-9 that nobody reads, but RabbitMQ carries

# The size in bytes of each value, in wire order. Short strings and tables carry their own size.
_SHORT_STRING, _TABLE = -1, -2
_SIZES = (
    (FLAG_CONTENT_TYPE, _SHORT_STRING),
    (FLAG_CONTENT_ENCODING, _SHORT_STRING),
    (FLAG_HEADERS, _TABLE),
    (FLAG_DELIVERY_MODE, 1),
    (FLAG_PRIORITY, 1),
    (FLAG_CORRELATION_ID, _SHORT_STRING),
    (FLAG_REPLY_TO, _SHORT_STRING),
    (FLAG_EXPIRATION, _SHORT_STRING),
    (FLAG_MESSAGE_ID, _SHORT_STRING),
    (FLAG_TIMESTAMP, 8),
    (FLAG_TYPE, _SHORT_STRING),
    (FLAG_USER_ID, _SHORT_STRING),
    (FLAG_APP_ID, _SHORT_STRING),
    (_FLAG_CLUSTER_ID, _SHORT_STRING),
)
_TIMESTAMP_IN_MS = b"\x0ftimestamp_in_msl"  # with its length before, and after it the type octet of a long
_FROM_TIMESTAMP = (FLAG_TIMESTAMP << 1) - 1  # the flags of the timestamp and of what follows it
_YEAR_S, _MINUTE_S = 366 * 86400.0, 60.0

_flags = struct.Struct(">H").unpack_from
_pack_flags = struct.Struct(">H").pack
_table_size = struct.Struct(">I").unpack_from
_timestamp = struct.Struct(">Q").unpack_from


class Properties:
    """The properties of a message (AMQP 0-9-1, 1.8). A property that was not sent, or cannot be read, is None.

    `timestamp` is the publisher's number unchecked; by the standard it counts seconds. `expiration` is text, as in the
    standard. `headers_raw` is the header table as on the wire, without its length.
    """

    __slots__ = (
        "_table_read",
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
        self.content_type = reader.text(FLAG_CONTENT_TYPE)
        self.content_encoding = reader.text(FLAG_CONTENT_ENCODING)
        self.headers_raw = reader.table(FLAG_HEADERS)
        self.delivery_mode = reader.octet(FLAG_DELIVERY_MODE)
        self.priority = reader.octet(FLAG_PRIORITY)
        self.correlation_id = reader.text(FLAG_CORRELATION_ID)
        self.reply_to = reader.text(FLAG_REPLY_TO)
        self.expiration = reader.text(FLAG_EXPIRATION)
        self.message_id = reader.text(FLAG_MESSAGE_ID)
        self.timestamp = reader.timestamp(FLAG_TIMESTAMP)
        self.type = reader.text(FLAG_TYPE)
        self.user_id = reader.text(FLAG_USER_ID)
        self.app_id = reader.text(FLAG_APP_ID)
        self._table_read: dict[str, Any] | None = None

    @property
    def headers(self) -> dict[str, Any]:
        """The headers, decoded at first use (see `field_table`); {} when none were sent.

        Raises DecodeError when they are broken, or above the limits of `field_table`.
        """
        if self._table_read is None:
            self._table_read = field_table.decode(self.headers_raw or b"")
        return self._table_read


class _PropertyReader:
    """Reads the values in wire order. A value that runs past the end is None, and so are all later ones."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._flags = _flags(raw)[0] if len(raw) >= 2 else 0
        # The lowest bit announces another flag word. It is ignored, because no property with such a flag is defined.
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


def split(raw: bytes) -> dict[int, bytes]:
    """Return the values of raw properties by their flags, in wire order, each as on the wire with its size.

    Raises DecodeError when the properties are truncated. They must not be published again then, because the broker
    would close the connection.
    """
    values = {}
    at = 2
    try:
        (flags,) = _flags(raw)
        for flag, size in _SIZES:
            if flags & flag:
                end = at + _value_bytes(raw, at, size)
                values[flag] = raw[at:end]
                at = end
    except (IndexError, struct.error):
        at = len(raw) + 1
    if at > len(raw):
        raise DecodeError("the properties are cut short")
    return values


def join(values: Mapping[int, bytes]) -> bytes:
    """Return raw properties made of values as `split` returns them, in any order."""
    return _pack_flags(sum(values)) + b"".join(values[flag] for flag in sorted(values, reverse=True))


def _value_bytes(raw: bytes, at: int, size: int) -> int:
    if size == _SHORT_STRING:
        return 1 + raw[at]
    return 4 + int(_table_size(raw, at)[0]) if size == _TABLE else size


def headers_span(raw: bytes) -> tuple[int, int]:
    """Return the start and the end of the header table in raw properties, with its size.

    Both are the end of `raw` when the table is missing or cannot be reached.
    """
    try:
        (flags,) = _flags(raw)
        at = 2
        if flags & FLAG_CONTENT_TYPE:
            at += 1 + raw[at]
        if flags & FLAG_CONTENT_ENCODING:
            at += 1 + raw[at]
        if flags & FLAG_HEADERS:
            return at, min(at + 4 + int(_table_size(raw, at)[0]), len(raw))
    except (IndexError, struct.error):
        pass
    return len(raw), len(raw)


def published_at(raw: bytes, now: float) -> float:
    """Return when a message was published, in seconds since 1970, by its own claim; 0 when nothing is known.

    The claim is the header `timestamp_in_ms`, which RabbitMQ writes when it is told to
    (https://www.rabbitmq.com/docs/message-interceptors), or else the property `timestamp`. A claim of more
    than a year before `now`, or a minute after it, is not believed: some publishers write milliseconds.
    """
    claim: float = 0.0
    try:
        (flags,) = _flags(raw)
        if flags & FLAG_HEADERS and (at := raw.find(_TIMESTAMP_IN_MS)) != -1:
            claim = _timestamp(raw, at + len(_TIMESTAMP_IN_MS))[0] / 1000
        elif flags & _FROM_TIMESTAMP == FLAG_TIMESTAMP:  # it is the last value, as nearly always
            claim = float(_timestamp(raw, len(raw) - 8)[0])
        elif flags & FLAG_TIMESTAMP:
            at = _id_at(raw, flags)
            claim = float(_timestamp(raw, at + 1 + raw[at] if flags & FLAG_MESSAGE_ID else at)[0])
    except (IndexError, struct.error):
        return 0.0
    return claim if now - _YEAR_S < claim < now + _MINUTE_S else 0.0


def message_id_bytes(raw: bytes) -> bytes:
    """Return the message id in raw properties, as sent; b"" when it is missing or cannot be reached.

    The hot path calls this for every started delivery, so it walks the flags without building `Properties`.
    """
    try:
        (flags,) = _flags(raw)
        if not flags & FLAG_MESSAGE_ID:
            return b""
        at = _id_at(raw, flags)
        end = at + 1 + raw[at]
        return raw[at + 1 : end] if end <= len(raw) else b""
    except (IndexError, struct.error):
        return b""


def _id_at(raw: bytes, flags: int) -> int:
    """Return where the message id is, or would be. Raises IndexError or struct.error when it cannot be reached."""
    at = 2
    if flags & FLAG_CONTENT_TYPE:
        at += 1 + raw[at]
    if flags & FLAG_CONTENT_ENCODING:
        at += 1 + raw[at]
    if flags & FLAG_HEADERS:
        at += 4 + _table_size(raw, at)[0]
    if flags & FLAG_DELIVERY_MODE:
        at += 1
    if flags & FLAG_PRIORITY:
        at += 1
    if flags & FLAG_CORRELATION_ID:
        at += 1 + raw[at]
    if flags & FLAG_REPLY_TO:
        at += 1 + raw[at]
    if flags & FLAG_EXPIRATION:
        at += 1 + raw[at]
    return at
