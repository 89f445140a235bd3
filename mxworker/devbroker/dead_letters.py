"""Dead-lettering: the headers that tell of it, and the rule that ends a cycle of it.

Pure. The headers are those of https://www.rabbitmq.com/docs/dlx: `x-death` has one entry for each queue and reason, the
newest first, and `x-first-death-*` stays what it was. `x-last-death-*` is of RabbitMQ 4.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mxworker.devbroker.message import Death, Message, with_headers
from mxworker.errors import EncodeError
from mxworker.wire import field_table

REJECTED, EXPIRED, TOO_LONG, DELIVERY_LIMIT = "rejected", "expired", "maxlen", "delivery_limit"

_long = struct.Struct(">q").pack
_size = struct.Struct(">I").pack
_timestamp = struct.Struct(">Q").pack


def dead_lettered(message: Message, death: Death, exchange: str, routing_key: str | None) -> Message:
    """Return `message` as it is published to a dead-letter exchange; without a routing key it keeps its own."""
    entries = deaths(message)
    values: dict[str, bytes | None] = {"x-death": _array(_counted(entries, message, death))}
    facts = {"exchange": message.exchange, "queue": death.queue, "reason": death.reason}
    for which in ("last",) if entries else ("first", "last"):
        values |= {f"x-{which}-death-{name}": _text(value) for name, value in facts.items()}
    keys = message.routing_keys
    if routing_key is not None:
        values["CC"] = None
        keys = (routing_key,)
    properties = with_headers(message.properties, values, expires=False)
    return Message(exchange, keys, properties, message.body)


def is_cycle(message: Message, queue: str) -> bool:
    """Tell whether `message` was in `queue` before and came back by itself, without a reject on the way."""
    passed = []
    for entry in deaths(message):
        passed.append(entry.get("reason"))
        if entry.get("queue") == queue:
            return REJECTED not in passed
    return False


def deaths(message: Message) -> list[Mapping[str, Any]]:
    """Return the entries of `x-death`, the newest first; what is no table is left out."""
    found = message.headers.get("x-death")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _counted(entries: Sequence[Mapping[str, Any]], message: Message, death: Death) -> list[bytes]:
    """Return the encoded entries with this death counted, its entry first."""
    same = [entry for entry in entries if (entry.get("queue"), entry.get("reason")) == death.key]
    others = [entry for entry in entries if entry not in same]
    newest = dict(same[0]) if same else _first_entry(message, death)
    count = newest.get("count")
    newest["count"] = count + 1 if same and isinstance(count, int) else 1
    return [_table(entry) for entry in (newest, *others)]


def _first_entry(message: Message, death: Death) -> dict[str, Any]:
    entry = {
        "count": 1,
        "reason": death.reason,
        "queue": death.queue,
        "time": datetime.fromtimestamp(death.at_s, UTC),
        "exchange": message.exchange,
        "routing-keys": list(message.routing_keys),
    }
    if message.ttl_ms is not None:
        entry["original-expiration"] = message.read.expiration
    return entry


def _table(entry: Mapping[str, Any]) -> bytes:
    """Encode an entry; the count is a long, as RabbitMQ writes it. What cannot be encoded is left out."""
    encoded = b""
    for name, value in entry.items():
        if name == "count" and isinstance(value, int):
            encoded += b"\x05countl" + _long(value)
            continue
        try:
            encoded += field_table.encode({name: value})
        except EncodeError:
            continue
    return b"F" + _size(len(encoded)) + encoded


def _array(values: Sequence[bytes]) -> bytes:
    joined = b"".join(values)
    return b"A" + _size(len(joined)) + joined


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return b"S" + _size(len(raw)) + raw
