"""A published message, and what the broker reads of its properties or writes into them.

Pure. Properties stay the bytes that the publisher sent. A message is never changed, because several queues share it;
the functions here return another one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mxworker.devbroker.faults import ConnectionFault, precondition_failed
from mxworker.devbroker.frames import short_string
from mxworker.devbroker.type_names import type_name
from mxworker.errors import DecodeError
from mxworker.wire import field_table
from mxworker.wire.properties import FLAG_EXPIRATION, FLAG_HEADERS, FLAG_USER_ID, Properties, join, split

REPLY_TO = "amq.rabbitmq.reply-to"
MAX_TTL_MS = 10 * 365 * 24 * 60 * 60 * 1000  # ten years
_CC, _BCC = "CC", "BCC"
_CHECKED_TABLE_BYTES = 2 * field_table.MAX_SPLIT  # the shortest header takes two bytes
_flags = struct.Struct(">H").unpack_from
_pack_size = struct.Struct(">I").pack


class Message:
    """A body, its properties, the exchange it was published to, and its routing keys: the publisher's, CC and BCC."""

    __slots__ = ("_read", "address", "body", "exchange", "flags", "properties", "routing_keys")

    def __init__(
        self, exchange: str, routing_keys: tuple[str, ...], properties: bytes, body: bytes, address: bytes | None = None
    ) -> None:
        self.exchange = exchange
        self.routing_keys = routing_keys
        self.properties = properties
        self.body = body
        self.flags: int = _flags(properties)[0]
        self.address = address or short_string(exchange) + short_string(routing_keys[0])
        self._read: Properties | None = None

    @property
    def read(self) -> Properties:
        """The properties, decoded at first use."""
        if self._read is None:
            self._read = Properties(self.properties)
        return self._read

    @property
    def headers(self) -> dict[str, Any]:
        """The decoded headers; {} when they cannot be read."""
        if not self.flags & FLAG_HEADERS:
            return {}
        try:
            return self.read.headers
        except DecodeError:
            return {}

    @property
    def ttl_ms(self) -> int | None:
        """The message's own time to live, of the property `expiration`."""
        if not self.flags & FLAG_EXPIRATION:
            return None
        text = self.read.expiration
        return int(text) if text and text.isdecimal() else None


def assert_whole(properties: bytes) -> None:
    """Raise ConnectionFault when raw properties are not whole values one after another: they would harm a consumer.

    The headers are looked at one by one, but not into tables and arrays inside them. A large table is taken as it is,
    because it may have more headers than we read.
    """
    try:
        values = split(properties)
        table = values.get(FLAG_HEADERS, b"")[4:]
        if table and len(table) <= _CHECKED_TABLE_BYTES:
            field_table.entries(table)
    except DecodeError as error:
        raise ConnectionFault(502, str(error)) from error
    if 2 + sum(map(len, values.values())) != len(properties):
        raise ConnectionFault(502, "there is more behind the last of the properties")


def published(
    exchange: str, routing_key: str, properties: bytes, body: bytes, address: bytes | None, user: str
) -> Message:
    """Return the message that a client publishes; Fault when a property is not what the broker takes."""
    message = Message(exchange, (routing_key,), properties, body, address)
    flags = message.flags
    if flags & FLAG_EXPIRATION:
        _check_expiration(message.read.expiration or "")
    if flags & FLAG_USER_ID and message.read.user_id != user:
        raise precondition_failed(
            f"user_id property set to '{message.read.user_id}' but authenticated user was '{user}'"
        )
    if flags & FLAG_HEADERS and b"CC" in properties:
        return _with_copies(message)
    return message


def _check_expiration(text: str) -> None:
    if not text.isdecimal() or not text.isascii():
        raise precondition_failed(f"invalid expiration '{text}': {_why_no_number(text)}")
    if int(text) > MAX_TTL_MS:
        raise precondition_failed(f"invalid expiration '{text}': {{value_too_large,{int(text)}}}")


def _why_no_number(text: str) -> str:
    """Say it in the words of RabbitMQ's parser of numbers."""
    digits = text[1:] if text[:1] in "+-" and len(text) > 1 else text
    whole = len(digits) - len(digits.lstrip("0123456789"))
    if not whole:
        return "no_integer"
    if whole < len(digits):
        return f'{{leftover_string,"{digits[whole:]}"}}'
    return f"{{value_negative,{text}}}"


def _with_copies(message: Message) -> Message:
    """Return `message` with the routing keys of CC and BCC, without the header BCC."""
    headers = message.headers
    more = [key for name in (_CC, _BCC) if name in headers for key in _keys(name, headers[name])]
    if not more:
        return message
    keys = tuple(dict.fromkeys((message.routing_keys[0], *more)))
    properties = without_header(message.properties, _BCC) if _BCC in headers else message.properties
    return Message(message.exchange, keys, properties, message.body, message.address)


def _keys(name: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise precondition_failed(f'invalid message: {{unacceptable_type_in_header,"{name}",{type_name(value)}}}')
    return [key for key in value if isinstance(key, str)]


def replaced(message: Message, properties: bytes) -> Message:
    """Return `message` with other properties."""
    return Message(message.exchange, message.routing_keys, properties, message.body, message.address)


def without_header(properties: bytes, name: str) -> bytes:
    """Return raw properties without one header."""
    return _edited(properties, {name: None})


def with_headers(properties: bytes, values: dict[str, bytes | None], expires: bool = True) -> bytes:
    """Return raw properties with these headers, each a value with its type octet; None takes one away.

    The property `expiration` goes unless it `expires` still.
    """
    return _edited(properties, values, expires)


def with_reply_to(properties: bytes, flag: int, reply_to: str) -> bytes:
    """Return raw properties with another address to reply to."""
    return join({**split(properties), flag: short_string(reply_to)})


def _edited(properties: bytes, values: dict[str, bytes | None], expires: bool = True) -> bytes:
    parts = split(properties)
    if not expires:
        parts.pop(FLAG_EXPIRATION, None)
    table = parts.get(FLAG_HEADERS, b"\0\0\0\0")[4:]
    changed = {name.encode(): value for name, value in values.items()}
    try:
        kept = b"".join(_entry(name, value) for name, value in field_table.entries(table) if name not in changed)
    except DecodeError:  # a table above all bounds stays as it is, behind the new headers
        kept = table
    new = b"".join(_entry(name, value) for name, value in changed.items() if value is not None)
    table = new + kept
    parts[FLAG_HEADERS] = _pack_size(len(table)) + table
    return join(parts)


def _entry(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


@dataclass(frozen=True)
class Death:
    """What is written into `x-death` when a queue gives a message up."""

    queue: str
    reason: str
    at_s: int

    @cached_property
    def key(self) -> tuple[str, str]:
        """What entries are counted by."""
        return self.queue, self.reason
