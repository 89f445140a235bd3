"""Headers and properties survive the way out, in, and out and in again, through RabbitMQ and our own codec."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mxworker import Context, Delivery, Handlers, Message, Publisher
from mxworker.api.receipts import Confirmed
from tests.broker.workers import running
from tests.harness.waiting import until
from tests.pure.wire.test_field_table import same, tables
from tests.rabbit.client import Client

SOON_S = 60.0
ROUTING_HEADERS = {"CC", "BCC"}  # RabbitMQ takes these for more routing keys, and the second one away
BOOKKEEPING = ("mx-attempt", "mx-origin-")  # of our copies: what a publisher puts there is not shown among the headers
TEXTS = ("message_id", "correlation_id", "reply_to", "type", "app_id", "content_type")

texts = st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
messages = st.builds(
    Message,
    body=st.binary(max_size=50),
    headers=tables.filter(lambda table: not ROUTING_HEADERS & table.keys()),
    persistent=st.booleans(),
    priority=st.none() | st.integers(0, 255),
    expiration_ms=st.none() | st.integers(600_000, 2**32 - 1),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    # A reply-to of this name is a feature of RabbitMQ's, and refused without a consumer of it.
    **{name: st.none() | texts.filter(lambda text: text != "amq.rabbitmq.reply-to") for name in TEXTS},
)


@pytest.fixture(autouse=True)
def _clean(queue_name: str, admin: Client) -> Iterator[None]:
    """Delete the second queue, too."""
    yield
    admin.delete(f"{queue_name}.back")
    admin.delete(f"{queue_name}.back.dlq")


def as_received(delivery: Delivery) -> Message:
    """Return the message that a delivery was; as a relay would publish it again."""
    properties = delivery.properties
    return Message(
        body=delivery.body,
        headers=delivery.headers,
        persistent=properties.delivery_mode == 2,
        priority=properties.priority,
        expiration_ms=None if properties.expiration is None else int(properties.expiration),
        timestamp=properties.timestamp,
        **{name: getattr(properties, name) for name in TEXTS},
    )


def by_name(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return headers in the order that RabbitMQ 4 brings them into: only the outermost table is sorted."""
    return dict(sorted((headers or {}).items(), key=lambda header: header[0].encode("utf-8", "surrogateescape")))


def assert_same(received: Message, sent: Message) -> None:
    shown = {name: value for name, value in (sent.headers or {}).items() if not name.startswith(BOOKKEEPING)}
    assert same(by_name(received.headers), by_name(shown))
    expected = replace(
        sent,
        headers=received.headers,
        message_id=sent.message_id or received.message_id,
        content_type="application/octet-stream" if sent.content_type is None else sent.content_type,
    )
    assert received == expected
    assert received.message_id


async def there_and_back(url: str, queue: str, sent: list[Message]) -> list[Message]:
    """Publish to `queue`, where a handler publishes it again to `<queue>.back`, and return what comes out there."""
    handlers = Handlers()
    received: dict[int, Message] = {}

    @handlers.consume(queue)
    async def relay(delivery: Delivery, ctx: Context) -> None:
        await ctx.publisher.publish(as_received(delivery), routing_key=f"{queue}.back")

    @handlers.consume(f"{queue}.back")
    async def collect(delivery: Delivery) -> None:
        message = as_received(delivery)
        received[int(message.body[:4])] = replace(message, body=message.body[4:])

    async with running(url, handlers), Publisher.connect(url) as publisher:
        numbered = [replace(message, body=b"%04d%s" % (number, message.body)) for number, message in enumerate(sent)]
        outcomes = await publisher.publish_many(numbered, routing_key=queue)
        assert {type(outcome) for outcome in outcomes} == {Confirmed}
        await until(lambda: len(received) == len(sent), SOON_S, "all to come back")
    return [received[number] for number in range(len(sent))]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.reuse, Phase.generate),  # to shrink what failed would take minutes
)
@given(sent=st.lists(messages, min_size=5, max_size=20))
def test_messages_survive_being_published_again(broker_url: str, queue_name: str, sent: list[Message]) -> None:
    back = asyncio.run(there_and_back(broker_url, queue_name, sent))
    for received, message in zip(back, sent, strict=True):
        assert_same(received, message)


async def test_long_and_unicode_properties_survive(broker_url: str, queue_name: str) -> None:
    unicode_text = "Grüße, 世界 🐇"
    sent = Message(
        body="ä".encode(),
        headers={unicode_text: [unicode_text, {"deep": [None, True, -(2**63), 1.5, b"\xff"]}], "long": "x" * 50_000},
        persistent=False,
        priority=255,
        expiration_ms=2**32 - 1,
        timestamp=2**64 - 1,
        **dict.fromkeys(TEXTS, (unicode_text * 20)[:60]),
    )
    moment = datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
    back = await there_and_back(broker_url, queue_name, [sent, replace(sent, timestamp=moment, message_id="other")])
    assert_same(back[0], sent)
    assert back[1].timestamp == int(moment.timestamp())


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_compressed_dict_reaches_a_handler_as_it_was(encoding: str, broker_url: str, queue_name: str) -> None:
    handlers = Handlers()
    seen: list[tuple[dict[str, Any], str | None, int]] = []
    sent = {"text": "Grüße " * 2000, "numbers": list(range(1000)), "nothing": None}

    @handlers.consume(queue_name)
    async def take(payload: dict[str, Any], ctx: Context) -> None:
        delivery = ctx.delivery
        seen.append((payload, delivery.properties.content_encoding, len(delivery.body)))
        if len(seen) == 1:  # once more, from inside a worker
            await ctx.publisher.publish(payload, routing_key=queue_name, compression=encoding)

    async with running(broker_url, handlers), Publisher.connect(broker_url) as publisher:
        await publisher.publish(sent, routing_key=queue_name, compression=encoding)
        await until(lambda: len(seen) == 2, SOON_S, "both")
    for payload, content_encoding, size_bytes in seen:
        assert payload == sent
        assert content_encoding == encoding
        assert size_bytes < 5000
