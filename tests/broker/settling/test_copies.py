"""Copies go the ways of a retry and of a dead letter through RabbitMQ: they arrive once, in time, and whole."""

from __future__ import annotations

import asyncio
import struct
import time
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mxworker import Delivery, Publisher
from mxworker.api.attempts import attempt_of
from mxworker.api.message import Content
from mxworker.api.receipts import Confirmed
from mxworker.errors import MessageTooLarge
from mxworker.wire.field_table import encode, entries, entry
from mxworker.wire.origins import headers_of
from mxworker.wire.properties import split
from mxworker.worker.handling.copies import Facts, copy_with_facts, retry_copy
from tests.harness.copied import received, route_of
from tests.harness.nowhere import Nowhere
from tests.harness.waiting import until, wait_until
from tests.pure.wire.test_field_table import raw_names, raw_values
from tests.rabbit.client import Client, Received
from tests.rabbit.raw import field, raw_properties, table

DELAY_S = 5.0
EXPIRATION_MS = b"4000"  # long enough to be taken in time, and shorter than the delay
SOON_S = 60.0
FACTS = Facts("orders", "shop.order", 3, "failed", "ValueError", "no such order", 1_722_470_400)
RESERVED = (b"mx-", b"x-", b"CC", b"BCC")
DEATHS = (b"x-death", b"x-first-death-", b"x-last-death-", b"x-delivery-count", b"x-acquired-count")


class Shop:
    """A work queue behind an exchange, with its retry and its dead-letter queue, and queues that CC and BCC name."""

    key = "new.eu"

    def __init__(self, admin: Client, name: str, delay_s: float) -> None:
        self._admin = admin
        self.work, self.retry, self.dead = name, f"{name}.retry", f"{name}.dlq"
        self.cc, self.bcc, self.expired = f"{name}.cc", f"{name}.bcc", f"{name}.expired"
        self.exchange = f"{name}.shop"
        for queue in (self.dead, self.cc, self.bcc, self.expired):
            admin.declare_quorum(queue)
        self._declare(self.work, self.expired)
        self._declare(self.retry, self.work, x_message_ttl=round(delay_s * 1000))
        admin.declare_exchange(self.exchange, "topic")
        for queue, routing_key in ((self.work, self.key), (self.cc, self.cc), (self.bcc, self.bcc)):
            admin.bind(queue, self.exchange, routing_key)

    def _declare(self, queue: str, dead_letters_to: str, **arguments: object) -> None:
        self._admin.declare_quorum(
            queue,
            x_dead_letter_exchange="",
            x_dead_letter_routing_key=dead_letters_to,
            x_dead_letter_strategy="at-least-once",
            x_overflow="reject-publish",
            **arguments,
        )

    def remove(self) -> None:
        for queue in (self.work, self.retry, self.dead, self.cc, self.bcc, self.expired):
            self._admin.delete(queue)
        self._admin.delete_exchange(self.exchange)

    def publish(self, raw: bytes, body: bytes = b"an order") -> None:
        """Publish an original, as the user guest."""
        self._admin.publish_raw(self.key, body, raw, exchange=self.exchange)

    def take(self, queue: str) -> Delivery:
        """Take one message out of a queue, as soon as there is one."""
        return as_delivery(wait_until(lambda: self._admin.get(queue), SOON_S, f"a message in {queue}"))

    async def taken(self, queue: str) -> Delivery:
        """Do as `take` does while the event loop goes on."""
        return as_delivery(await until(lambda: self._admin.get(queue), SOON_S, f"a message in {queue}"))

    def left(self) -> dict[str, int]:
        """Return how many messages are in which queue, those that are empty left out."""
        queues = (self.work, self.retry, self.dead, self.cc, self.bcc, self.expired)
        return {queue: count for queue in queues if (count := len(self._admin.drain(queue)))}

    def death_of_old_age(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of a message that really expired in the work queue, its x-death among them."""
        self.publish(raw_properties(expiration=b"1"))
        headers = headers_of(split(self.take(self.expired).raw_properties))
        assert b"x-death" in dict(headers)
        assert self.work.encode() in dict(headers)[b"x-death"]
        return headers


def as_delivery(message: Received) -> Delivery:
    route = route_of(message.exchange.encode(), message.routing_key.encode())
    return Delivery(message.body, message.raw_properties, route, message.redelivered, 1, Nowhere())


@pytest.fixture
def shop(admin: Client) -> Iterator[Shop]:
    made = Shop(admin, f"test-{uuid.uuid4().hex[:12]}", DELAY_S)
    yield made
    made.remove()


def more_routes(name: bytes, queue: str) -> tuple[bytes, bytes]:
    key = queue.encode()
    return name, b"A" + table(b"S" + struct.pack(">I", len(key)) + key)


def raw_table(headers: list[tuple[bytes, bytes]]) -> bytes:
    return table(*(entry(name, value) for name, value in headers))


async def sent(publisher: Publisher, content: Content, queue: str) -> None:
    assert type(await publisher.publish(content, routing_key=queue)) is Confirmed


def assert_shows(shown: Delivery, original: Delivery) -> None:
    """Compare what a handler sees; RabbitMQ sorts the headers of what it dead-letters."""
    origin = shown.origin
    assert origin is not None
    assert (shown.body, origin.exchange, origin.routing_key) == (original.body, original.exchange, original.routing_key)
    kept = [each for each in entries(shown.properties.headers_raw or b"") if not each[0].startswith(DEATHS)]
    assert sorted(kept + entries(origin.raw_headers)) == sorted(headers_of(split(original.raw_properties)))
    assert (shown.exchange, shown.properties.expiration, shown.properties.user_id) == ("", None, None)
    about = original.properties
    assert (origin.expiration, origin.claimed_user_id) == (about.expiration, about.user_id)
    for name in ("message_id", "content_type", "delivery_mode", "priority", "timestamp"):
        assert getattr(shown.properties, name) == getattr(original.properties, name), name


@pytest.mark.alone
async def test_whatever_the_broker_acts_on_a_copy_waits_its_time_and_comes_back_once(
    shop: Shop, worker_url: str
) -> None:
    headers = [*shop.death_of_old_age(), more_routes(b"CC", shop.cc), more_routes(b"BCC", shop.bcc)]
    about = {"message_id": b"an id", "content_type": b"text/plain", "priority": 1, "timestamp": 2**64 - 1}
    shop.publish(
        raw_properties(headers=raw_table(headers), expiration=EXPIRATION_MS, user_id=b"guest", delivery_mode=2, **about)
    )
    original = shop.take(shop.work)
    assert shop.left() == {shop.cc: 1, shop.bcc: 1}
    assert {"x-death", "CC"} <= original.headers.keys()  # RabbitMQ keeps BCC to itself
    assert original.properties.user_id == "guest"

    delivery = original
    async with Publisher.connect(worker_url) as publisher:
        for attempt in (2, 3):
            published_at = time.monotonic()
            await sent(publisher, retry_copy(delivery, attempt), shop.retry)
            delivery = await shop.taken(shop.work)
            assert time.monotonic() - published_at > DELAY_S * 0.95
            assert attempt_of(delivery, 9) == attempt
            assert shop.left() == {}
            assert_shows(delivery, original)
        await sent(publisher, copy_with_facts(delivery, FACTS), shop.dead)
        dead = await shop.taken(shop.dead)
    assert shop.left() == {}
    assert dead.origin is not None
    facts = FACTS.headers() | {"mx-failed-at": dead.headers["mx-failed-at"]}
    assert dead.headers | dead.origin.headers == original.headers | facts
    assert dead.headers["mx-failed-at"].timestamp() == FACTS.at_s
    assert (dead.origin.exchange, dead.origin.routing_key, dead.origin.expiration) == (
        shop.exchange,
        shop.key,
        EXPIRATION_MS.decode(),
    )
    assert attempt_of(dead, 9) == 1


async def test_what_only_other_brokers_deliver_does_nothing_in_a_copy(shop: Shop, worker_url: str) -> None:
    """RabbitMQ 3.10 delivers no BCC, and writes no x-last-death-*."""
    deaths = encode({"x-last-death-queue": shop.work, "x-last-death-reason": "expired", "x-delivery-count": 10**9})
    headers = [more_routes(b"BCC", shop.bcc), more_routes(b"CC", shop.cc), *entries(deaths)]
    raw = raw_properties(headers=raw_table(headers), expiration=b"1", user_id=b"nobody", message_id=b"an id")
    original = received(raw, exchange=b"shop", routing_key=b"new")
    async with Publisher.connect(worker_url) as publisher:
        await sent(publisher, retry_copy(original, 2), shop.retry)
        back = await shop.taken(shop.work)
        await sent(publisher, copy_with_facts(original, FACTS), shop.dead)
        dead = await shop.taken(shop.dead)
    assert shop.left() == {}
    assert_shows(back, original)
    assert dead.origin is not None
    assert (dead.origin.exchange, dead.origin.claimed_user_id) == ("shop", "nobody")


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.reuse, Phase.generate),  # to shrink what failed would take minutes
)
@given(
    tables=st.lists(
        st.lists(st.tuples(raw_names.filter(lambda name: not name.startswith(RESERVED)), raw_values), max_size=6),
        min_size=10,
        max_size=30,
    )
)
def test_headers_of_every_type_survive_a_retry_byte_for_byte(
    admin: Client, broker_url: str, tables: list[list[tuple[bytes, bytes]]]
) -> None:
    shop = Shop(admin, f"test-{uuid.uuid4().hex[:12]}", 0.001)
    try:
        asyncio.run(all_survive(shop, broker_url, tables))
    finally:
        shop.remove()


async def all_survive(shop: Shop, url: str, tables: list[list[tuple[bytes, bytes]]]) -> None:
    originals = {}
    for number, headers in enumerate(tables):
        shop.publish(raw_properties(headers=raw_table(headers), message_id=b"%d" % number))
        originals[number] = shop.take(shop.work)
    async with Publisher.connect(url) as publisher:
        for original in originals.values():
            await sent(publisher, retry_copy(original, 2), shop.retry)
        for _ in tables:
            back = await shop.taken(shop.work)
            assert_shows(back, originals[int(back.message_id or "")])


async def test_copy_that_outgrows_a_frame_is_refused_and_costs_no_neighbour(shop: Shop, broker_url: str) -> None:
    """The largest headers that can be delivered leave no room for ours."""
    frame_max, around = 131_072, 8 + 14  # frame and content header
    properties = raw_properties(headers=table(field(b"long", b"x", struct.pack(">I", 0))), message_id=b"id")
    room = frame_max - around - len(properties)
    large = table(field(b"long", b"x", struct.pack(">I", room) + b"x" * room))
    shop.publish(raw_properties(headers=large, message_id=b"id"))
    original = shop.take(shop.work)
    async with Publisher.connect(broker_url, channels=1) as publisher:
        neighbour = publisher.publish_nowait("small", routing_key=shop.dead)
        with pytest.raises(MessageTooLarge, match="the headers and properties take"):
            await publisher.publish(retry_copy(original, 2), routing_key=shop.retry)
        assert type(await neighbour) is Confirmed
    assert shop.left() == {shop.dead: 1}
