"""Basic properties written by hand, so that they can say what no decent client would say.

Layout: a word of flags, then the value of each property whose flag is set, in the order below (AMQP 0-9-1, 4.2.6.1 and
the class `basic`). Pure: bytes in, bytes out; `Client.publish_raw` sends them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import islice, product
from types import MappingProxyType

_SHORT_STRING, _TABLE, _OCTET, _LONG_LONG = "short string", "table", "octet", "long long"
_PROPERTIES = (
    ("content_type", _SHORT_STRING),
    ("content_encoding", _SHORT_STRING),
    ("headers", _TABLE),
    ("delivery_mode", _OCTET),
    ("priority", _OCTET),
    ("correlation_id", _SHORT_STRING),
    ("reply_to", _SHORT_STRING),
    ("expiration", _SHORT_STRING),
    ("message_id", _SHORT_STRING),
    ("timestamp", _LONG_LONG),
    ("type", _SHORT_STRING),
    ("user_id", _SHORT_STRING),
    ("app_id", _SHORT_STRING),
    ("cluster_id", _SHORT_STRING),
)
_FIRST_FLAG = 15
_NAME_OCTETS = range(0x21, 0x100)


def raw_properties(**values: bytes | int) -> bytes:
    """Return the property bytes of a content header: strings as bytes, `headers` as the table's bytes (see `table`)."""
    flags = 0
    encoded = b""
    for position, (name, kind) in enumerate(_PROPERTIES):
        if name in values:
            flags |= 1 << (_FIRST_FLAG - position)
            encoded += _encode(kind, values[name])
    unknown = values.keys() - {name for name, _ in _PROPERTIES}
    if unknown:
        raise ValueError(f"no such properties: {sorted(unknown)}")
    return struct.pack(">H", flags) + encoded


def table(*entries: bytes) -> bytes:
    """Return a field table made of `entries` (see `field`)."""
    content = b"".join(entries)
    return struct.pack(">I", len(content)) + content


def field(name: bytes, kind: bytes, value: bytes = b"") -> bytes:
    """Return one entry of a table: `kind` is the type octet, `value` its bytes."""
    return short_string(name) + kind + value


def short_string(text: bytes) -> bytes:
    """Return `text` with its length in front; the bytes need not be UTF-8."""
    return struct.pack(">B", len(text)) + text


def text(content: bytes) -> bytes:
    """Return the value of a field of type S or x."""
    return struct.pack(">I", len(content)) + content


def array_item(kind: bytes, value: bytes = b"") -> bytes:
    """Return one value of an array, which has the layout of a table but for the names."""
    return kind + value


def nested_table(levels: int) -> bytes:
    """Return a table in a table in a table, `levels` deep."""
    inner = table()
    for _ in range(levels):
        inner = table(field(b"n", b"F", inner))
    return inner


def wide_table(entries: int) -> bytes:
    """Return a table of void fields with names of their own, sorted as RabbitMQ 4 does, and before other names."""
    names = map(bytes, product(b"0123456789", _NAME_OCTETS, _NAME_OCTETS))
    return table(*(field(name, b"V") for name in islice(names, entries)))


def _encode(kind: str, value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return short_string(value) if kind == _SHORT_STRING else value
    return struct.pack(">B" if kind == _OCTET else ">Q", value)


NANOSECONDS = 1_722_470_400_123_456_789
NOT_UTF_8 = b"\xff\xfe\x80id"

HOSTILE: Mapping[str, bytes] = MappingProxyType(
    {
        "timestamp in nanoseconds": raw_properties(delivery_mode=2, timestamp=NANOSECONDS),
        "timestamp of all ones": raw_properties(delivery_mode=2, timestamp=2**64 - 1),
        "message_id not UTF-8": raw_properties(delivery_mode=2, message_id=NOT_UTF_8),
        "correlation_id not UTF-8": raw_properties(delivery_mode=2, correlation_id=NOT_UTF_8),
        "type not UTF-8": raw_properties(delivery_mode=2, type=NOT_UTF_8),
        "reply_to not UTF-8": raw_properties(delivery_mode=2, reply_to=NOT_UTF_8),
        "app_id not UTF-8": raw_properties(delivery_mode=2, app_id=NOT_UTF_8),
        "content_type not UTF-8": raw_properties(delivery_mode=2, content_type=NOT_UTF_8),
        "header name not UTF-8": raw_properties(delivery_mode=2, headers=table(field(NOT_UTF_8, b"V"))),
        "header timestamp in nanoseconds": raw_properties(
            delivery_mode=2, headers=table(field(b"at", b"T", struct.pack(">Q", NANOSECONDS)))
        ),
        "headers nested 600 deep": raw_properties(delivery_mode=2, headers=nested_table(600)),
        "20,000 headers": raw_properties(delivery_mode=2, headers=wide_table(20_000)),
    }
)
