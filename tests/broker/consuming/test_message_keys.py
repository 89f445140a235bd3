"""A message has one key, however often RabbitMQ delivers it; and a forger finds no other message with it."""

from __future__ import annotations

import pytest

from mxworker.wire.message_keys import MessageKeys
from tests.rabbit import raw
from tests.rabbit.client import Client, Received

KEYS = MessageKeys(b"secret of a test", "orders")
DELIVERIES = 4

HEADERS = {
    "none": None,
    "empty": [],
    "one": [raw.field(b"tenant", b"S", raw.text(b"a"))],
    "unsorted": [raw.field(name, b"S", raw.text(name)) for name in (b"b", b"aa", b"x-z", b"a", b"X")],
    "after the broker's": [raw.field(b"z", b"V"), raw.field(b"x-delivery-counts", b"l", bytes(8))],
    "twice": [raw.field(name, b"I", bytes((0, 0, 0, n))) for n, name in enumerate((b"b", b"a", b"b", b"a"))],
    "forged": [raw.field(name, b"l", bytes(8)) for name in (b"x-delivery-count", b"x-acquired-count") * 2],
    "forged as text": [raw.field(b"x-delivery-count", b"S", raw.text(b"many"))],
    "nested": [
        raw.field(b"n", b"F", raw.table(raw.field(b"b", b"V"), raw.field(b"a", b"F", raw.nested_table(3)))),
        raw.field(b"a", b"A", raw.table(raw.array_item(b"t", b"\x01"), raw.array_item(b"S", raw.text(b"x")))),
    ],
    "numbers": [
        raw.field(b"%d" % n, kind, value)
        for n, (kind, value) in enumerate(
            [
                (b"b", b"\xff"),
                (b"B", b"\xff"),
                (b"s", b"\xff\xfe"),
                (b"u", b"\xff\xfe"),
                (b"i", b"\xff\xff\xff\xfe"),
                (b"I", b"\xff\xff\xff\xfe"),
                (b"l", b"\xff" * 8),
                (b"L", b"\xff" * 8),
                (b"f", b"\x40\x49\x0f\xdb"),
                (b"d", b"\x80" + bytes(7)),
                (b"t", b"\x01"),
                (b"t", b"\x05"),
                (b"T", b"\xff" * 8),
                (b"D", b"\x02\xff\xff\xff\xff"),
                (b"x", raw.text(b"\xff\x00")),
                (b"V", b""),
            ]
        )
    ],
}


def key(received: Received) -> int:
    route = raw.short_string(received.exchange.encode()) + raw.short_string(received.routing_key.encode())
    return KEYS.key(received.raw_properties, route, received.body)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_message_has_the_same_key_at_each_delivery(broker_url: str, queue_name: str, kind: str) -> None:
    with Client(broker_url) as client:
        client.declare(queue_name, arguments={"x-queue-type": kind})
        for name, fields in HEADERS.items():
            properties = {"content_type": b"x", "delivery_mode": 2, "priority": 3, "message_id": b"one and the same"}
            if fields is not None:
                properties["headers"] = raw.table(*fields)
            client.publish_raw(queue_name, name.encode(), raw.raw_properties(**properties))
    seen: dict[str, list[Received]] = {name: [] for name in HEADERS}
    for _ in range(DELIVERIES):
        with Client(broker_url) as client:
            for received in client.hold(queue_name, len(HEADERS)):
                seen[received.body.decode()].append(received)
    for name, deliveries in seen.items():
        assert [one.redelivered for one in deliveries] == [False] + [True] * (DELIVERIES - 1)
        assert len({key(one) for one in deliveries}) == 1, (name, [one.raw_properties for one in deliveries])
