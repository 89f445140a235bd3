"""What a dead letter says about itself: who failed on it, why, when and how often.

A letter has the facts in headers of mxworker (see `worker.handling.copies.Facts`). If the broker has dead-lettered it,
they are in `x-death` (https://www.rabbitmq.com/docs/dlx#effects). Anybody who may publish to the queue can write both,
so they are read tolerantly: what is missing or has another type is None.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from mxworker.api.copying import copy_of
from mxworker.api.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.wire.origins import without_delivery_counts
from mxworker.wire.own_headers import (
    ATTEMPTS_HEADER,
    ERROR_HEADER,
    ERROR_TYPE_HEADER,
    FAILED_AT_HEADER,
    HANDLER_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    REPLAY_HEADER,
    REPLAYS_HEADER,
)
from mxworker.wire.properties import Properties

_KEY_BYTES = 8
_LATEST_S = 253_402_300_799  # the last second of the year 9999


class Original(NamedTuple):
    """A letter as on the wire, without the headers in which the broker counts its deliveries. See `Delivery`."""

    body: bytes
    raw_properties: bytes
    raw_route: bytes

    @classmethod
    def of(cls, delivery: Delivery) -> Original:
        """Return the original of a delivery."""
        return cls(delivery.body, without_delivery_counts(delivery.raw_properties), delivery.raw_route)


@dataclass(frozen=True, slots=True)
class Letter:
    """The facts about one dead letter. Texts are foreign: print them through `printable`.

    `key` names the letter by its content, and stays the same when it is delivered again, renewed, or exported and
    imported, unless it has no message id: then its copy gets one. `failed_at` is in seconds since 1970.
    """

    key: str
    message_id: str | None
    queue: str | None
    handler: str | None
    reason: str | None
    error_type: str | None
    error: str | None
    failed_at: float | None
    attempts: int | None
    replays: int
    replay: str | None
    delivery_count: int
    content_type: str | None
    body_bytes: int
    headers: Mapping[str, Any]


def letter_of(delivery: Delivery) -> tuple[Letter, Original]:
    """Return the facts of a delivery from a dead-letter queue or a quarantine, and its original."""
    counted = _headers(Properties(delivery.raw_properties))
    count = _count(counted, "x-acquired-count") or _count(counted, "x-delivery-count") or 0
    original = Original.of(delivery)
    return letter_in(original, count), original


def letter_in(original: Original, delivery_count: int = 0) -> Letter:
    """Return the facts of an original, which was given back `delivery_count` times."""
    properties = Properties(original.raw_properties)
    headers = _headers(properties)
    death = _last_death(headers)
    return Letter(
        key=key_of(original),
        message_id=properties.message_id,
        queue=_text(headers, QUEUE_HEADER) or _text(death, "queue"),
        handler=_text(headers, HANDLER_HEADER),
        reason=_text(headers, REASON_HEADER) or _text(death, "reason"),
        error_type=_text(headers, ERROR_TYPE_HEADER),
        error=_text(headers, ERROR_HEADER),
        failed_at=_second(headers.get(FAILED_AT_HEADER)) or _second(death.get("time")),
        attempts=_count(headers, ATTEMPTS_HEADER),
        replays=_count(headers, REPLAYS_HEADER) or 0,
        replay=_text(headers, REPLAY_HEADER),
        delivery_count=delivery_count,
        content_type=properties.content_type,
        body_bytes=len(original.body),
        headers=headers,
    )


def key_of(original: Original) -> str:
    """Return the key of a letter: a digest of its body, and of the properties that a copy of it has."""
    digest = blake2b(original.body, digest_size=_KEY_BYTES)
    try:
        copy = copy_of(*original, {})
    except DecodeError:
        digest.update(original.raw_properties)
    else:
        digest.update(b"\0".join((copy.head, copy.message_id or b"", copy.tail)))
    return digest.hexdigest()


def _headers(properties: Properties) -> dict[str, Any]:
    try:
        return properties.headers
    except DecodeError:
        return {}


def _last_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the newest entry of `x-death`, {} without one."""
    deaths = headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    return first if isinstance(first, Mapping) else {}


def _text(table: Mapping[str, Any], name: str) -> str | None:
    value = table.get(name)
    return value if isinstance(value, str) else None


def _count(table: Mapping[str, Any], name: str) -> int | None:
    value = table.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _second(value: object) -> float | None:
    """Return a timestamp of a table in seconds since 1970, None when it is none of this calendar."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LATEST_S:
        return float(value)
    return None
