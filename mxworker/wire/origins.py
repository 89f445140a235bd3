"""The origin of a copied message: properties that a copy must not keep, under names that the broker ignores.

A copy of a delivery goes to a retry queue, a dead-letter queue or a quarantine. Properties and headers that the broker
would act on there move to headers of our own (tried with RabbitMQ 3.10; x-acquired-count comes from 4.3, and
x-deduplication-header from the plugin rabbitmq-message-deduplication):

| of the original                        | kept in the copy as               | under its own name it would        |
|----------------------------------------|-----------------------------------|------------------------------------|
| exchange, routing key                  | mx-origin-exchange, -routing-key  | be that of the copy                |
| headers x-death, x-first-death-*, ...  | mx-origin-x-death, ...            | let cycle detection drop the copy  |
| headers x-delivery-, x-acquired-count  | mx-origin-x-delivery-count, ...   | be taken for the copy's own        |
| header x-deduplication-header          | mx-origin-x-deduplication-header  | let the copy be dropped            |
| headers CC, BCC                        | mx-origin-CC, mx-origin-BCC       | send the copy to those queues, too |
| expiration                             | mx-origin-expiration              | cut the delay short                |
| user_id                                | mx-origin-user-id                 | close the channel: 406             |

All other properties and headers stay as they were delivered, byte for byte. A copy of a copy keeps the origin of the
first, and loses the headers that the broker added on the way, because x-death would grow with each round.

A delivery counts as a copy when it has a readable origin and came through the default exchange, as copies do. That
proves nothing: a publisher with access to the queue or its retry queue through the default exchange can write the same
headers, and services and hosts share no key with which copies could be signed. So an origin is a claim: `Origin` shows
it under separate names, beside what the broker delivered, and nothing is decided by it. Only user_id is validated by
RabbitMQ (https://www.rabbitmq.com/docs/validated-user-id). It is never set from a header, and when a delivery that
claims to be a copy has one, the next copy records that user_id in place of the claimed one.

Pure: it works on bytes as on the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mxworker.errors import DecodeError
from mxworker.wire.field_table import SHORT_STRING_BYTES, decode, entries, entry, integer
from mxworker.wire.own_headers import (
    ATTEMPT_HEADER,
    ORIGIN_EXCHANGE_HEADER,
    ORIGIN_EXPIRATION_HEADER,
    ORIGIN_PREFIX,
    ORIGIN_ROUTING_KEY_HEADER,
    ORIGIN_USER_ID_HEADER,
)
from mxworker.wire.properties import FLAG_EXPIRATION, FLAG_HEADERS, FLAG_USER_ID, join, split

_PREFIX = ORIGIN_PREFIX.encode()
_EXCHANGE = ORIGIN_EXCHANGE_HEADER.encode()
_ROUTING_KEY = ORIGIN_ROUTING_KEY_HEADER.encode()
_EXPIRATION = ORIGIN_EXPIRATION_HEADER.encode()
_USER_ID = ORIGIN_USER_ID_HEADER.encode()
_PROPERTIES: Mapping[int, bytes] = MappingProxyType({FLAG_EXPIRATION: _EXPIRATION, FLAG_USER_ID: _USER_ID})
_ORIGIN = frozenset({_EXCHANGE, _ROUTING_KEY, *_PROPERTIES.values()})
_ATTEMPT = ATTEMPT_HEADER.encode()
_DELIVERY_COUNTS = frozenset({b"x-delivery-count", b"x-acquired-count"})
MOVED_HEADERS = _DELIVERY_COUNTS | {b"x-death", b"x-deduplication-header", b"CC", b"BCC"}
MOVED_FAMILIES = (b"x-first-death-", b"x-last-death-")
_TABLE_SIZE_BYTES = 4
_NO_EXCHANGE = b"\x00"
_size = struct.Struct(">I")

Headers = list[tuple[bytes, bytes]]
"""The entries of a table, see `field_table.entries`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a retried or replayed copy says about the message that was copied first.

    An origin is a claim and no fact: anyone who may publish to the queue can write it. You may route by it and show it
    to people, but grant nothing for it. `exchange` and `routing_key` are those of the first publish. `expiration` and
    `claimed_user_id` are the properties expiration and user_id of the first message, None when it had none.
    """

    exchange: str
    routing_key: str
    expiration: str | None
    claimed_user_id: str | None
    raw_headers: bytes
    """The table of `headers`, as on the wire."""

    @property
    def headers(self) -> dict[str, Any]:
        """The headers that the broker would have acted on: x-death, CC ... They are decoded at each call.

        Raises DecodeError when they cannot be read.
        """
        return decode(self.raw_headers)


def headers_of(values: Mapping[int, bytes]) -> Headers:
    """Return the headers among split properties. Raises DecodeError when they are broken or too many."""
    return entries(_table(values))


def integer_header(values: Mapping[int, bytes], name: bytes) -> int | None:
    """Return an integer header among split properties, see `field_table.integer`. Raises DecodeError as that does."""
    return integer(_table(values), name)


def _table(values: Mapping[int, bytes]) -> bytes:
    return values.get(FLAG_HEADERS, b"")[_TABLE_SIZE_BYTES:]


def with_headers(values: Mapping[int, bytes], headers: Headers) -> dict[int, bytes]:
    """Return split properties with their headers replaced; without any headers, the property is left out."""
    rest = {flag: value for flag, value in values.items() if flag != FLAG_HEADERS}
    table = b"".join(entry(name, value) for name, value in headers)
    return {**rest, FLAG_HEADERS: _size.pack(len(table)) + table} if table else rest


def moved_away(raw_properties: bytes, route: bytes) -> tuple[dict[int, bytes], Headers]:
    """Return the properties and headers for a copy of the message, split, without the attempt header.

    The headers among the properties are still those of the original. `route` is the exchange and the routing key, as
    two short strings. Raises DecodeError when properties or headers cannot be split.
    """
    values = split(raw_properties)
    headers = [(name, value) for name, value in headers_of(values) if name != _ATTEMPT]
    kept = {flag: value for flag, value in values.items() if flag not in _PROPERTIES}
    if _origin(headers, route) is not None:
        validated = [(_USER_ID, _long(values[FLAG_USER_ID]))] if FLAG_USER_ID in values else []
        replaced = {name for name, _ in validated}
        return kept, [each for each in headers if not _is_moved(each[0]) and each[0] not in replaced] + validated
    moved = [
        (_PREFIX + name if _is_moved(name) else name, value) for name, value in headers if not name.startswith(_PREFIX)
    ]
    moved += [(name, _long(values[flag])) for flag, name in _PROPERTIES.items() if flag in values]
    exchange_end = 1 + route[0] if route else 0
    moved += [(_EXCHANGE, _long(route[:exchange_end])), (_ROUTING_KEY, _long(route[exchange_end:]))]
    return kept, moved


def as_delivered(raw_properties: bytes) -> bytes:
    """Return raw properties without the attempt and origin headers of copies. Broken properties are left as they are.

    So an application that publishes the headers of a delivery again passes on neither the attempt nor the origin.
    """
    if _ATTEMPT not in raw_properties and _PREFIX not in raw_properties:
        return raw_properties
    try:
        values = split(raw_properties)
        headers = headers_of(values)
    except DecodeError:
        return raw_properties
    return join(with_headers(values, [each for each in headers if not _is_bookkeeping(each[0])]))


def without_delivery_counts(raw_properties: bytes) -> bytes:
    """Return raw properties without the headers in which the broker counts deliveries. Broken ones are left as is."""
    if not any(name in raw_properties for name in _DELIVERY_COUNTS):
        return raw_properties
    try:
        values = split(raw_properties)
        headers = headers_of(values)
    except DecodeError:
        return raw_properties
    return join(with_headers(values, [each for each in headers if each[0] not in _DELIVERY_COUNTS]))


def origin_of(raw_properties: bytes, route: bytes) -> Origin | None:
    """Return the origin that a delivery claims, None when it claims none or one that cannot be read."""
    if _EXCHANGE not in raw_properties:
        return None
    try:
        headers = headers_of(split(raw_properties))
    except DecodeError:
        return None
    origin = _origin(headers, route)
    if origin is None:
        return None
    moved = [(name.removeprefix(_PREFIX), value) for name, value in headers if name.startswith(_PREFIX)]
    return Origin(
        exchange=_text(origin[_EXCHANGE]),
        routing_key=_text(origin[_ROUTING_KEY]),
        expiration=_text(origin[_EXPIRATION]) if _EXPIRATION in origin else None,
        claimed_user_id=_text(origin[_USER_ID]) if _USER_ID in origin else None,
        raw_headers=b"".join(entry(name, value) for name, value in moved if _is_moved(name)),
    )


def _origin(headers: Headers, route: bytes) -> dict[bytes, bytes] | None:
    """Return the origin headers of a copy, as short strings by name; None when the delivery is no copy."""
    if route[:1] != _NO_EXCHANGE:
        return None
    origin = {name: short for name, value in headers if name in _ORIGIN and (short := _short(value)) is not None}
    return origin if _EXCHANGE in origin and _ROUTING_KEY in origin else None


def _is_moved(name: bytes) -> bool:
    """Tell whether a header moves. The broker writes none whose name is too long for our prefix, so those stay."""
    return name in MOVED_HEADERS or (name.startswith(MOVED_FAMILIES) and len(_PREFIX + name) <= SHORT_STRING_BYTES)


def _is_bookkeeping(name: bytes) -> bool:
    return name == _ATTEMPT or name.startswith(_PREFIX)


def _text(short: bytes) -> str:
    return short[1:].decode("utf-8", "surrogateescape")


def _long(short: bytes) -> bytes:
    """Return a short string as a value of a table, a missing one as ''."""
    text = short[1:]
    return b"S" + _size.pack(len(text)) + text


def _short(value: bytes) -> bytes | None:
    """Return a value of a table as a short string, None when it is not one."""
    text = value[1 + _TABLE_SIZE_BYTES :]
    return bytes((len(text),)) + text if value[:1] == b"S" and len(text) <= SHORT_STRING_BYTES else None
