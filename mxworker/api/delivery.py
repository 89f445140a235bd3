"""A delivery: a message as it was received.

A delivery keeps the bytes from the wire, and decodes them tolerantly when a caller asks: see `properties`. Its values
are those that the broker delivered. A copy, made for a retry or taken from a dead-letter queue, has headers about the
message that was copied. They are only a claim, and `Delivery.origin` returns them separately: see `origins`.

This module knows nothing about settling on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

from mxworker.system.printable import foreign
from mxworker.wire.origins import Origin, as_delivered, origin_of
from mxworker.wire.properties import Properties


class Source(Protocol):
    """The incarnation of a channel that brought a delivery and settles it.

    `ack`, `reject` and `give_back` end the delivery. They return False when it was stale and nothing was sent.
    """

    is_lost: bool
    """Whether the channel has ended, so that the broker redelivers its unsettled messages."""

    is_consumed: bool
    """Whether the channel may bring more deliveries; False during a pause."""

    def ack(self, delivery: Delivery) -> bool:
        """Settle the delivery as done."""

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        """Settle the delivery as failed."""

    def give_back(self, delivery: Delivery) -> bool:
        """Settle the delivery as not processed: it goes back to the queue."""

    def holds(self, delivery: Delivery) -> bool:
        """Whether the delivery is not settled yet."""

    def give_up(self, why: str) -> None:
        """End the channel, so that the broker redelivers its unsettled messages."""


class Delivery:
    """One message as the broker delivered it.

    `body` has the bytes as published. `delivery_tag` is unique on its channel only. `redelivered` means that the broker
    may have delivered the message before. `raw_properties` and `raw_route` (exchange and routing key) are as on the
    wire. `executed` is the number of executions since the delivery came, none of which settled it. `received_at` is a
    monotonic time in seconds, and `published_at` one since 1970, of the message's first publish; 0 is unknown.
    """

    __slots__ = (
        "_decoded",
        "_source",
        "body",
        "delivery_tag",
        "executed",
        "published_at",
        "raw_properties",
        "raw_route",
        "received_at",
        "redelivered",
    )

    def __init__(
        self,
        body: bytes,
        raw_properties: bytes,
        route: bytes,
        redelivered: bool,
        delivery_tag: int,
        source: Source,
        received_at: float = 0.0,
    ) -> None:
        """`route` and `raw_properties` are as on the wire."""
        self.body = body
        self.raw_properties = raw_properties
        self.redelivered = redelivered
        self.delivery_tag = delivery_tag
        self.raw_route = route
        self.executed = 0
        self.received_at = received_at
        self.published_at = 0.0
        self._decoded: Properties | None = None
        self._source = source

    @property
    def properties(self) -> Properties:
        """The message's properties, decoded at the first use. The headers have none of mxworker's own.

        RabbitMQ has validated the `user_id`, if there is one. A retry and a dead letter have neither `user_id` nor
        `expiration`: see `origin`.
        """
        if self._decoded is None:
            self._decoded = Properties(as_delivered(self.raw_properties))
        return self._decoded

    @property
    def exchange(self) -> str:
        """The exchange that the message came through; '' is the default exchange, as for all retries."""
        return _split_route(self.raw_route)[0]

    @property
    def routing_key(self) -> str:
        """The routing key of the message; a retry has the name of the queue.

        Handlers that route by the key use `(delivery.origin or delivery).routing_key`.
        """
        return _split_route(self.raw_route)[1]

    @property
    def origin(self) -> Origin | None:
        """The facts about the first message that a copy was made of; None for a delivery that is no copy.

        Every publisher can write such facts: see `Origin`. They are decoded at each use.
        """
        return origin_of(self.raw_properties, self.raw_route)

    @property
    def message_id(self) -> str | None:
        """The application's message id."""
        return self.properties.message_id

    @property
    def shown_id(self) -> str | None:
        """The message id for the log, printable and bounded, since a publisher may choose any id."""
        return None if self.message_id is None else foreign(self.message_id)

    @property
    def headers(self) -> dict[str, Any]:
        """The application's headers, {} when there are none. Raises DecodeError when they cannot be read.

        A dead letter also has headers with the facts of its failure. Every publisher can write such headers.
        """
        return self.properties.headers

    @property
    def is_stale(self) -> bool:
        """Whether its channel has ended: the broker redelivers the message, and settling this delivery does nothing."""
        return self._source.is_lost

    def __repr__(self) -> str:
        return f"<Delivery {self.delivery_tag} {self.routing_key!r} id={self.message_id!r} {len(self.body)} bytes>"


source_of: Callable[[Delivery], Source] = attrgetter("_source")  # called for each ack, and faster than a function
"""Return the source that settles a delivery. Only mxworker calls this: a handler returns its settlement."""


def _split_route(route: bytes) -> tuple[str, str]:
    """Return exchange and routing key, two short strings one after the other. A truncated string is ''."""
    middle = 1 + route[0] if route else 0
    key = route[middle + 1 : middle + 1 + route[middle]] if middle < len(route) else b""
    return route[1:middle].decode("utf-8", "surrogateescape"), key.decode("utf-8", "surrogateescape")
