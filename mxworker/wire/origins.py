"""Where a copied message came from: what must not ride along with a copy, kept under names that do nothing.

A copy of a delivery goes through a retry or a dead-letter queue, or to the end of its own. What the broker would act on
there moves to a header of its own (tried, with RabbitMQ 3.10; x-acquired-count is of 4.3, x-deduplication-header of the
plugin rabbitmq-message-deduplication):

| of the original                        | kept in the copy as               | where it was, it would             |
|----------------------------------------|-----------------------------------|------------------------------------|
| exchange, routing key                  | mx-origin-exchange, -routing-key  | be that of the copy                |
| headers x-death, x-first-death-*, ...  | mx-origin-x-death, ...            | let cycle detection drop the copy  |
| headers x-delivery-, x-acquired-count  | mx-origin-x-delivery-count, ...   | be taken for the copy's own        |
| header x-deduplication-header          | mx-origin-x-deduplication-header  | let the copy be dropped            |
| headers CC, BCC                        | mx-origin-CC, mx-origin-BCC       | send the copy to those queues, too |
| expiration                             | mx-origin-expiration              | cut the delay short                |
| user_id                                | mx-origin-user-id                 | close the channel: 406             |

All else stays as it was delivered, byte for byte. A copy of a copy keeps the origin of the first, and loses what the
broker added on the way: x-death would grow with each round.

A delivery is taken for a copy when it has a readable origin and came through the default exchange, as copies do.
That proves nothing. Whoever may publish to the queue, or to its retry queue, through the default exchange can write the
same headers, and there is no key that all services and hosts share, with which copies could be signed. So an origin is
a claim: `Origin` shows it under names of its own, beside what the broker delivered, and nothing is decided by it. Only
user_id is validated by RabbitMQ (https://www.rabbitmq.com/docs/validated-user-id). It is never set from a header, and
when a delivery that says it is a copy has one, the next copy records that one in place of the claim.

Pure: bytes as on the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mxworker.errors import DecodeError
from mxworker.wire.field_table import MAX_NAME_BYTES, decode, entries, entry, integer
from mxworker.wire.properties import FLAG_EXPIRATION, FLAG_HEADERS, FLAG_USER_ID, join, split

ATTEMPT_HEADER = "mx-attempt"
"""Which attempt the execution of a retry copy is. Never shown among the headers."""

_PREFIX = b"mx-origin-"
_EXCHANGE = _PREFIX + b"exchange"
_ROUTING_KEY = _PREFIX + b"routing-key"
_EXPIRATION = _PREFIX + b"expiration"
_USER_ID = _PREFIX + b"user-id"
_PROPERTIES: Mapping[int, bytes] = MappingProxyType({FLAG_EXPIRATION: _EXPIRATION, FLAG_USER_ID: _USER_ID})
_ORIGIN = frozenset({_EXCHANGE, _ROUTING_KEY, *_PROPERTIES.values()})
_ATTEMPT = ATTEMPT_HEADER.encode()
_HEADERS = frozenset({b"x-death", b"x-delivery-count", b"x-acquired-count", b"x-deduplication-header", b"CC", b"BCC"})
_HEADER_FAMILIES = (b"x-first-death-", b"x-last-death-")
_TABLE_SIZE_BYTES = 4
_LONGEST_SHORT = 255
_NO_EXCHANGE = b"\x00"
_size = struct.Struct(">I")

Headers = list[tuple[bytes, bytes]]
"""The entries of a table, see `field_table.entries`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a copy, tried again or taken from a dead-letter queue, says of the message that was copied first.

    A claim, not a fact: anyone who may publish to the queue can write it. Route by it, and show it to people, but grant
    nothing for it. `exchange` and `routing_key` are where the message was published to first; `expiration` and
    `claimed_user_id` are the properties expiration and user_id that it had, None when it had none.
    """

    exchange: str
    routing_key: str
    expiration: str | None
    claimed_user_id: str | None
    raw_headers: bytes
    """The table of `headers`, as on the wire."""

    @property
    def headers(self) -> dict[str, Any]:
        """The headers that the copy had to move out of the broker's way: x-death, CC ... Decoded at each call.

        Raises DecodeError when they cannot be read.
        """
        return decode(self.raw_headers)


def headers_of(values: Mapping[int, bytes]) -> Headers:
    """Return the headers among split properties. Raises DecodeError when they cannot be split, or are too many."""
    return entries(_table(values))


def integer_header(values: Mapping[int, bytes], name: bytes) -> int | None:
    """Return a header among split properties, see `field_table.integer`; raises DecodeError as that does."""
    return integer(_table(values), name)


def _table(values: Mapping[int, bytes]) -> bytes:
    return values.get(FLAG_HEADERS, b"")[_TABLE_SIZE_BYTES:]


def with_headers(values: Mapping[int, bytes], headers: Headers) -> dict[int, bytes]:
    """Return split properties with these headers in place of theirs; no headers at all are no property."""
    rest = {flag: value for flag, value in values.items() if flag != FLAG_HEADERS}
    table = b"".join(entry(name, value) for name, value in headers)
    return {**rest, FLAG_HEADERS: _size.pack(len(table)) + table} if table else rest


def moved_away(raw_properties: bytes, route: bytes) -> tuple[dict[int, bytes], Headers]:
    """Return the properties and headers that a copy of the message has, split, without its own attempt.

    The headers among the properties are still the original's. `route` is exchange and routing key, two short strings.
    Raises DecodeError when properties or headers cannot be split.
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
    """Return properties without the bookkeeping of copies among their headers; broken ones as they are.

    An application that publishes the headers of a delivery again passes on neither the attempt nor the origin.
    """
    if _ATTEMPT not in raw_properties and _PREFIX not in raw_properties:
        return raw_properties
    try:
        values = split(raw_properties)
        headers = headers_of(values)
    except DecodeError:
        return raw_properties
    return join(with_headers(values, [each for each in headers if not _is_bookkeeping(each[0])]))


def origin_of(raw_properties: bytes, route: bytes) -> Origin | None:
    """Return what a delivery says of the message it is a copy of; None when it says nothing that can be read."""
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
    """Return what a copy says of its original, as short strings by their names; None when it is no copy."""
    if route[:1] != _NO_EXCHANGE:
        return None
    origin = {name: short for name, value in headers if name in _ORIGIN and (short := _short(value)) is not None}
    return origin if _EXCHANGE in origin and _ROUTING_KEY in origin else None


def _is_moved(name: bytes) -> bool:
    """Whether a header moves. One of those families whose name leaves no room for ours is no broker's."""
    return name in _HEADERS or (name.startswith(_HEADER_FAMILIES) and len(_PREFIX + name) <= MAX_NAME_BYTES)


def _is_bookkeeping(name: bytes) -> bool:
    return name == _ATTEMPT or name.startswith(_PREFIX)


def _text(short: bytes) -> str:
    return short[1:].decode("utf-8", "surrogateescape")


def _long(short: bytes) -> bytes:
    """Return a short string as a value in a table; one that is missing is ''."""
    text = short[1:]
    return b"S" + _size.pack(len(text)) + text


def _short(value: bytes) -> bytes | None:
    """Return a value in a table as a short string; None when it is none."""
    text = value[1 + _TABLE_SIZE_BYTES :]
    return bytes((len(text),)) + text if value[:1] == b"S" and len(text) <= _LONGEST_SHORT else None
