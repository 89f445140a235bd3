"""Copies of deliveries as they would be delivered, without a broker between."""

from __future__ import annotations

from mxworker import Delivery
from mxworker.api.message import Content
from mxworker.wire.origins import headers_of, with_headers
from mxworker.wire.properties import join, split
from tests.harness.nowhere import Nowhere
from tests.rabbit.raw import short_string


def route_of(exchange: bytes, routing_key: bytes) -> bytes:
    """Return a route as on the wire."""
    return short_string(exchange) + short_string(routing_key)


def received(
    raw_properties: bytes = b"\x00\x00",
    *,
    exchange: bytes = b"",
    routing_key: bytes = b"work",
    body: bytes = b"body",
    redelivered: bool = False,
) -> Delivery:
    """Return a delivery of a message with these properties."""
    return Delivery(body, raw_properties, route_of(exchange, routing_key), redelivered, 1, Nowhere())


def properties_on_wire(content: Content, made_id: bytes = b"made") -> bytes:
    """Return the properties of a content as a publisher writes them, `made_id` being what it makes for an id."""
    return content.head + short_string(content.message_id or made_id) + content.tail


def come_back(content: Content, *added: tuple[bytes, bytes]) -> Delivery:
    """Return the delivery of a copy to its queue `work`, the broker having `added` headers on the way."""
    values = split(properties_on_wire(content))
    return received(join(with_headers(values, [*headers_of(values), *added])), body=content.body)
