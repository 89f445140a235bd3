"""Each publish gets its own outcome, and a true one: refused by a queue, by a limit, by an exchange, or by nobody."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from mxworker import Publisher
from mxworker.api.receipts import Confirmed
from mxworker.errors import MessageTooLarge, PublishError, Unroutable
from tests.broker.publishers import Reported, publish_all
from tests.harness.faults import TO_BROKER, Rule
from tests.harness.frames import BASIC_PUBLISH, CHANNEL_CLOSE
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client

FRAME_MAX = 131_072
LONG_S = 60.0
REPLACED = "a publisher channel is replaced"


def counting_publishes(proxy: Proxy) -> Rule:
    """Count the publishes on the wire, as the rule's `hits`."""
    return proxy.on(TO_BROKER, BASIC_PUBLISH, lambda frame: frame.raw)


@pytest.fixture
def exchange(broker_url: str) -> Iterator[str]:
    """A direct exchange that nobody else uses."""
    name = f"exchange-{uuid.uuid4().hex[:12]}"
    with Client(broker_url) as client:
        client.declare_exchange(name)
        yield name
        client.delete_exchange(name)


# ---- messages that share their id


@pytest.mark.parametrize("channels", [1, 2], ids=["one-channel", "two-channels"])
async def test_pairs_with_one_id_get_their_own_outcomes(
    broker_url: str, queue_name: str, rng: random.Random, scale: Callable[[int, int], int], channels: int
) -> None:
    count = scale(2_000, 20_000)
    outcomes: Counter[tuple[str, str]] = Counter()
    with Client(broker_url) as client:
        client.declare(queue_name)
        async with Publisher.connect(broker_url, channels=channels, timeout_s=20.0) as publisher:

            async def publish(kind: str, number: int) -> None:
                # a key of its own for each, so that both channels get some
                routing_key = queue_name if kind == "routable" else f"{queue_name}-missing-{number}"
                try:
                    await publisher.publish(f"{number}", routing_key=routing_key, message_id=f"id-{number}")
                except Unroutable:
                    outcomes[kind, "Unroutable"] += 1
                else:
                    outcomes[kind, "Confirmed"] += 1

            async def work(numbers: Iterator[int]) -> None:
                for number in numbers:
                    kinds = rng.sample(["routable", "missing"], 2)
                    await asyncio.gather(*(publish(kind, number) for kind in kinds))

            numbers = iter(range(count))
            await asyncio.gather(*(work(numbers) for _ in range(100)))
        drained = [message.body.decode() for message in client.drain(queue_name)]
    print(f"{count} pairs: {dict(outcomes)}")
    assert outcomes == {("routable", "Confirmed"): count, ("missing", "Unroutable"): count}
    assert sorted(drained) == sorted(str(number) for number in range(count))


async def test_pairs_with_one_id_get_true_outcomes_while_a_binding_comes_and_goes(
    broker_url: str, queue_name: str, exchange: str, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    count = scale(2_000, 20_000)
    bound, missing = Reported(), Reported()
    stop = threading.Event()

    def toggle() -> int:
        with Client(broker_url) as client:
            for toggles in itertools.count():
                client.bind(queue_name, exchange, "comes and goes")
                time.sleep(0.003)  # long enough for some publishes
                client.unbind(queue_name, exchange, "comes and goes")
                if stop.is_set():
                    return toggles
        raise AssertionError

    with Client(broker_url) as client:
        client.declare(queue_name)
        toggling = asyncio.create_task(asyncio.to_thread(toggle))
        async with Publisher.connect(broker_url, timeout_s=20.0) as publisher:

            async def work(numbers: Iterator[int]) -> None:
                for number in numbers:
                    pair = [(bound, "comes and goes"), (missing, f"never-{number % 7}")]
                    rng.shuffle(pair)
                    publishes = (
                        reported.publish(publisher, f"{number}", key, exchange=exchange, message_id=f"id-{number}")
                        for reported, key in pair
                    )
                    await asyncio.gather(*publishes)

            numbers = iter(range(count))
            try:
                await asyncio.gather(*(work(numbers) for _ in range(100)))
            finally:
                stop.set()
                toggles = await toggling
        drained = [message.body.decode() for message in client.drain(queue_name)]
    print(f"{count} pairs, {toggles} times bound and unbound: {bound.check(drained)}; {dict(missing.kinds)}")
    assert missing.kinds == {"Unroutable": count}
    assert bound.kinds.keys() == {"Confirmed", "Unroutable"}
    assert len(drained) == len(bound.confirmed)


# ---- a queue that refuses


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_nacked_is_not_in_the_queue_and_confirmed_is(broker_url: str, queue_name: str, queue_type: str) -> None:
    arguments = {"x-queue-type": queue_type, "x-max-length": 10, "x-overflow": "reject-publish"}
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name, arguments=arguments)
        async with Publisher.connect(proxy.url(broker_url), timeout_s=LONG_S) as publisher:
            sent = counting_publishes(proxy)
            reported = await publish_all(publisher, map(str, range(1000)), queue_name, 100)
            assert publisher.stats.in_flight == 0
        drained = [message.body.decode() for message in client.drain(queue_name)]
    print(f"{queue_type}: {reported.check(drained)}, {sent.hits} publishes on the wire")
    assert reported.kinds.keys() == {"Confirmed", "PublishNacked"}
    assert sorted(drained) == sorted(reported.confirmed)
    assert sent.hits <= 3 * 1000
    assert reported.slowest_s < LONG_S / 2  # none waits for its timeout


@pytest.mark.parametrize("attempts", [1, 3])
async def test_refused_publish_is_sent_as_often_as_is_allowed(broker_url: str, queue_name: str, attempts: int) -> None:
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name, arguments=arguments)
        async with Publisher.connect(proxy.url(broker_url), attempts=attempts, timeout_s=LONG_S) as publisher:
            sent = counting_publishes(proxy)
            reported = await publish_all(publisher, ["one"], queue_name, 1)
            assert reported.kinds == {"PublishNacked": 1}
            assert sent.hits == attempts


# ---- limits of our own


async def test_oversize_body_fails_alone_and_never_touches_the_wire(broker_url: str, queue_name: str) -> None:
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        async with Publisher.connect(proxy.url(broker_url), max_body_bytes=1000, timeout_s=LONG_S) as publisher:
            bodies = [b"x" * (3_000_000 if number == 100 else 100) for number in range(256)]
            before = proxy.passed_bytes(TO_BROKER)
            outcomes = await publisher.publish_many(bodies, routing_key=queue_name)
            passed_bytes = proxy.passed_bytes(TO_BROKER) - before
            assert isinstance(outcomes.pop(100), MessageTooLarge)
            assert {type(outcome) for outcome in outcomes} == {Confirmed}
            assert passed_bytes < 256 * 400
        assert client.counts(queue_name).messages == 255


async def test_headers_around_the_frame_size_never_close_the_connection(broker_url: str, queue_name: str) -> None:
    kinds: list[type[object]] = []
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        async with Publisher.connect(proxy.url(broker_url), timeout_s=LONG_S) as publisher:
            for size_bytes in range(FRAME_MAX - 122, FRAME_MAX + 19):
                # the table's own bytes: size, name, type, size of the text
                headers = {"h": "x" * (size_bytes - 11)}
                try:
                    await publisher.publish("", routing_key=queue_name, headers=headers)
                except PublishError as error:
                    kinds.append(type(error))
                else:
                    kinds.append(Confirmed)
        counts = Counter(kind.__name__ for kind in kinds)
        print(f"headers of {FRAME_MAX - 122:,} to {FRAME_MAX + 18:,} bytes: {dict(counts)}")
        assert counts.keys() == {"Confirmed", "MessageTooLarge"}
        assert kinds == sorted(kinds, key=lambda kind: kind is MessageTooLarge), "from some size on they are too large"
        assert len(proxy.attempts) == 1, "the connection is still the first"
        assert client.counts(queue_name).messages == counts["Confirmed"]


# ---- exchanges


async def test_missing_exchange_is_found_out_before_anything_is_sent_to_it(
    broker_url: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mxworker")
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        async with Publisher.connect(proxy.url(broker_url), timeout_s=LONG_S) as publisher:
            sent = counting_publishes(proxy)

            async def misdirected(number: int) -> None:
                with pytest.raises(Unroutable, match="no exchange 'nowhere"):
                    await publisher.publish("", exchange=f"nowhere-{number % 3}", routing_key=queue_name)

            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(publish_all(publisher, map(str, range(1000)), queue_name, 50))
                for number in range(30):
                    group.create_task(misdirected(number))
            reported = publishing.result()
            assert reported.kinds == {"Confirmed": 1000}
            assert sent.hits == 1000
        assert REPLACED not in caplog.text
        print(reported.check(message.body.decode() for message in client.drain(queue_name)))


async def test_exchange_deleted_in_use_never_makes_a_lie(
    broker_url: str, queue_name: str, exchange: str, scale: Callable[[int, int], int]
) -> None:
    count, deletions = scale(3_000, 30_000), scale(5, 50)
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        client.bind(queue_name, exchange, "k")
        closes = proxy.on(TO_BROKER, CHANNEL_CLOSE, lambda frame: frame.raw)
        async with Publisher.connect(proxy.url(broker_url), timeout_s=20.0) as publisher:
            reported = Reported()
            numbers = iter(range(count))

            async def work() -> None:
                for number in numbers:
                    await reported.publish(publisher, f"{number}", "k", exchange=exchange)

            async def publishes(total: int) -> None:
                await until(lambda: reported.kinds.total() >= total, 30, f"{total} publishes")

            def has_more_unroutable(than: int) -> bool:
                return reported.kinds["Unroutable"] > than or reported.kinds.total() == count

            async def delete() -> None:
                for step in range(1, deletions + 1):
                    await publishes(step * count // (deletions + 2))
                    refused = reported.kinds["Unroutable"]
                    client.delete_exchange(exchange)
                    await until(partial(has_more_unroutable, refused), 30, "a publish to the missing exchange")
                    client.declare_exchange(exchange)
                    client.bind(queue_name, exchange, "k")

            await asyncio.gather(delete(), *(work() for _ in range(50)))
            await reported.publish(publisher, "last", "k", exchange=exchange)
            assert publisher.stats.in_flight == 0
        figures = reported.check(message.body.decode() for message in client.drain(queue_name))
        print(f"{deletions} deletions, {closes.hits} channels closed by us: {figures}")
        assert "last" in reported.confirmed
        assert len(proxy.attempts) == 1, "it cost no connection"
        assert reported.kinds["Unroutable"] > 0
        assert reported.slowest_s < LONG_S / 2
