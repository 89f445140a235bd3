"""What is received: a delivery.

A delivery keeps what came on the wire and decodes it when somebody asks, tolerantly: see `properties`. What it shows is
what the broker delivered. What a copy, tried again or taken from a dead-letter queue, says of the message that was
copied is only a claim, and is shown as that, in `Delivery.origin`: see `origins`.

Must not know how a delivery is settled on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

from mxworker.system.printable import foreign
from mxworker.wire.origins import Origin, as_delivered, origin_of
from mxworker.wire.properties import Properties


class Source(Protocol):
    """Where a delivery came from and is settled: one incarnation of a channel.

    Each of the first three ends the delivery; they return False when it was stale, so that nothing was sent.
    """

    is_lost: bool
    """Whether that channel has ended, so that the broker delivers its unsettled messages again."""

    is_consumed: bool
    """Whether more deliveries may come from there; not in a pause."""

    def ack(self, delivery: Delivery) -> bool:
        """Settle as done."""

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        """Settle as failed."""

    def give_back(self, delivery: Delivery) -> bool:
        """Settle as not processed: back to the queue."""

    def holds(self, delivery: Delivery) -> bool:
        """Whether the delivery is not settled yet."""

    def give_up(self, why: str) -> None:
        """End the channel, so that the broker delivers again what is not settled."""


class Delivery:
    """One message as the broker delivered it.

    `body` is the bytes as published. `delivery_tag` is unique on its channel only. `redelivered` says that the broker
    may have delivered it before. `raw_properties` and `raw_route` (exchange and routing key) are as on the wire.
    `executed` is how often it was executed since it was delivered, without being settled.
    """

    __slots__ = (
        "_decoded",
        "_source",
        "body",
        "delivery_tag",
        "executed",
        "raw_properties",
        "raw_route",
        "redelivered",
    )

    def __init__(
        self, body: bytes, raw_properties: bytes, route: bytes, redelivered: bool, delivery_tag: int, source: Source
    ) -> None:
        """Keep what came; `route` and `raw_properties` are as on the wire."""
        self.body = body
        self.raw_properties = raw_properties
        self.redelivered = redelivered
        self.delivery_tag = delivery_tag
        self.raw_route = route
        self.executed = 0
        self._decoded: Properties | None = None
        self._source = source

    @property
    def properties(self) -> Properties:
        """The message's properties, decoded at the first use; among the headers are none of mxworker's bookkeeping.

        `user_id`, when there is one, was validated by RabbitMQ. A retry and a dead letter have neither `user_id` nor
        `expiration`: see `origin`.
        """
        if self._decoded is None:
            self._decoded = Properties(as_delivered(self.raw_properties))
        return self._decoded

    @property
    def exchange(self) -> str:
        """The exchange that the broker took it from; '' is the default exchange, as for all retries."""
        return _split_route(self.raw_route)[0]

    @property
    def routing_key(self) -> str:
        """The routing key that the broker took it with; that of a retry is the queue's name.

        A handler that routes by the key takes `(delivery.origin or delivery).routing_key`.
        """
        return _split_route(self.raw_route)[1]

    @property
    def origin(self) -> Origin | None:
        """What a copy says of the message that was copied first; None when it does not say that it is a copy.

        A claim that anyone who may publish to the queue can make: see `Origin`. Decoded at each use.
        """
        return origin_of(self.raw_properties, self.raw_route)

    @property
    def message_id(self) -> str | None:
        """The application's message id."""
        return self.properties.message_id

    @property
    def shown_id(self) -> str | None:
        """The message id as the log shows it: printable and bounded, for a publisher may call a message anything."""
        return None if self.message_id is None else foreign(self.message_id)

    @property
    def headers(self) -> dict[str, Any]:
        """The application's headers, {} when there are none. Raises DecodeError when they cannot be read.

        Those of a dead letter have the facts of its death among them; anyone who may publish can write such headers.
        """
        return self.properties.headers

    @property
    def is_stale(self) -> bool:
        """Whether the channel it came on has ended: the broker delivers it again, and settling it does nothing."""
        return self._source.is_lost

    def __repr__(self) -> str:
        return f"<Delivery {self.delivery_tag} {self.routing_key!r} id={self.message_id!r} {len(self.body)} bytes>"


source_of: Callable[[Delivery], Source] = attrgetter("_source")  # called for each ack, and quicker than a function
"""Return where a delivery is settled. For mxworker alone: a handler returns its settlement."""


def _split_route(route: bytes) -> tuple[str, str]:
    """Return exchange and routing key, two short strings one after the other; what is cut short is ''."""
    middle = 1 + route[0] if route else 0
    key = route[middle + 1 : middle + 1 + route[middle]] if middle < len(route) else b""
    return route[1:middle].decode("utf-8", "surrogateescape"), key.decode("utf-8", "surrogateescape")
