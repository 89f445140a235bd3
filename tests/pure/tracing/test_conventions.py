"""Names and attributes of spans."""

from __future__ import annotations

import pytest

from mxworker.tracing.conventions import carrier_of, processing, sending


@pytest.mark.parametrize(
    ("exchange", "routing_key", "name", "destination"),
    [
        ("", "orders", "publish orders", "orders"),
        ("shop", "orders.new", "publish shop", "shop:orders.new"),
        ("shop", "", "publish shop", "shop"),
        ("", "", "publish amq.default", "amq.default"),
    ],
)
def test_publish_names_exchange_and_routing_key(exchange: str, routing_key: str, name: str, destination: str) -> None:
    found, attributes = sending(exchange, routing_key)
    assert found == name
    assert attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": destination,
        **({"messaging.rabbitmq.destination.routing_key": routing_key} if routing_key else {}),
    }


@pytest.mark.parametrize(
    ("exchange", "routing_key", "destination"),
    [
        ("", "orders", "orders"),
        ("shop", "orders.new", "shop:orders.new:orders"),
        ("shop", "orders", "shop:orders"),
        ("shop", "", "shop:orders"),
        ("", "", "orders"),
    ],
)
def test_execution_names_exchange_routing_key_and_queue(exchange: str, routing_key: str, destination: str) -> None:
    name, attributes = processing("orders", exchange, routing_key)
    assert name == "process orders"
    assert (attributes["messaging.operation.name"], attributes["messaging.operation.type"]) == ("process", "process")
    assert attributes["messaging.destination.name"] == destination


def test_carrier_has_texts_of_the_propagator_alone() -> None:
    headers = {"traceparent": b"00-1", "tracestate": "a=1", "baggage": 7, "other": "x"}
    fields = frozenset({"traceparent", "tracestate", "baggage"})
    assert carrier_of(headers, fields) == {"traceparent": "00-1", "tracestate": "a=1"}
