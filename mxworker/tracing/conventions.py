"""Names and attributes of spans, by the semantic conventions of OpenTelemetry for messaging and for RabbitMQ.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ and .../messaging/rabbitmq/. The name of a span
ends with the exchange or the queue and leaves the routing key out, since names shall have few values.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

SYSTEM = "rabbitmq"
ERROR_TYPE = "error.type"
MESSAGE_ID = "messaging.message.id"
CORRELATION_ID = "messaging.message.conversation_id"
DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag"
MESSAGE_COUNT = "messaging.batch.message_count"

_DEFAULT_EXCHANGE = "amq.default"

Attributes = dict[str, str | int]


def sending(exchange: str, routing_key: str) -> tuple[str, Attributes]:
    """Return name and attributes of the span of a publish."""
    destination = _joined(exchange, routing_key) or _DEFAULT_EXCHANGE
    return f"publish {exchange or destination}", _attributes("publish", "send", destination, routing_key)


def processing(queue: str, exchange: str, routing_key: str) -> tuple[str, Attributes]:
    """Return name and attributes of the span of an execution. Of a batch, exchange and routing key are ""."""
    destination = _joined(exchange, routing_key, queue if queue != routing_key else "")
    return f"process {queue}", _attributes("process", "process", destination, routing_key)


def _joined(*parts: str) -> str:
    return ":".join(filter(None, parts))


def _attributes(operation: str, kind: str, destination: str, routing_key: str) -> Attributes:
    found: Attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }
    if routing_key:
        found["messaging.rabbitmq.destination.routing_key"] = routing_key
    return found


def carrier_of(headers: Mapping[str, object], fields: frozenset[str]) -> dict[str, str]:
    """Return those headers of a message that carry the context of a trace."""
    carried = {}
    for name in fields:
        value = headers.get(name)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        if isinstance(value, str):
            carried[name] = value
    return carried
