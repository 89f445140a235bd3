"""The window of a publisher: never more in flight than allowed, in order, within the deadline, cancelled or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from mxworker import Publisher
from mxworker.amqp.publishing.stats import PublisherStats
from mxworker.errors import PublishError, PublishOverflow
from tests.broker.publishers import Reported
from tests.harness.faults import TO_CLIENT, Arrival, How
from tests.harness.frames import BASIC_ACK
from tests.harness.proxy import proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client

WINDOW = 50
LONG_S = 60.0
SLOW_BYTES_PER_S = 400_000


@asynccontextmanager
async def sampled(publisher: Publisher) -> AsyncIterator[list[PublisherStats]]:
    """Take the stats in every turn of the loop while the block runs."""
    samples: list[PublisherStats] = []

    async def sample() -> None:
        while True:
            samples.append(publisher.stats)
            await asyncio.sleep(0)

    sampling = asyncio.create_task(sample())
    yield samples
    sampling.cancel()
    await asyncio.wait({sampling})


def check(samples: list[PublisherStats], window: int) -> str:
    """Check what holds at every moment, and return a line of figures."""
    for sample in samples:
        ended = sample.tasks_processed + sample.tasks_failed + sample.tasks_dropped
        assert sample.tasks_queued == ended + sample.in_flight + sample.waiting, sample
        assert sample.in_flight <= window, sample
        assert sample.waiting == 0 or sample.in_flight == window, sample
    most = max(sample.in_flight for sample in samples)
    assert most == window, "the window was never full, so the test proved nothing"
    return f"{len(samples)} samples, at most {most} in flight and {max(s.waiting for s in samples)} waiting"


@pytest.mark.parametrize("overflow", ["wait", "raise", "drop"])
async def test_window_is_never_exceeded_and_every_publish_is_counted_once(
    broker_url: str, queue_name: str, scale: Callable[[int, int], int], overflow: Literal["wait", "raise", "drop"]
) -> None:
    count = scale(2_000, 20_000)
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        proxy.throttle(SLOW_BYTES_PER_S)
        settings: dict[str, Any] = {"max_in_flight": WINDOW, "overflow": overflow, "timeout_s": 60.0}
        async with Publisher.connect(proxy.url(broker_url), **settings) as publisher:
            reported = Reported()
            async with sampled(publisher) as samples, asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(reported.publish(publisher, f"{number}", queue_name))
                    if number % 100 == 0:
                        await asyncio.sleep(0)
            stats = publisher.stats
        drained = [message.body.decode() for message in client.drain(queue_name)]
    print(f"{overflow}: {check(samples, WINDOW)}; {reported.check(drained)}")
    assert stats.tasks_queued == count
    assert stats.tasks_processed == len(reported.confirmed) == len(drained)
    assert stats.tasks_failed == (len(reported.refused) if overflow == "raise" else 0)
    assert stats.tasks_dropped == (len(reported.refused) if overflow == "drop" else 0)
    if overflow == "wait":
        assert len(drained) == count
        assert drained == [f"{number}" for number in range(count)], "who waits first is let in first"
    else:
        assert reported.kinds.keys() == {"Confirmed", "PublishOverflow"}


async def test_receipt_of_a_dropped_publish_holds_the_overflow(broker_url: str, queue_name: str) -> None:
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        settings: dict[str, Any] = {"max_in_flight": 1, "timeout_s": 0.3}
        for overflow in ("drop", "raise", "wait"):
            async with Publisher.connect(proxy.url(broker_url), overflow=overflow, **settings) as publisher:
                proxy.blackhole()
                publisher.publish_nowait("", routing_key=queue_name)
                if overflow == "drop":
                    receipt = publisher.publish_nowait("", routing_key=queue_name)
                    assert isinstance(receipt.exception(), PublishOverflow)
                    assert publisher.stats.tasks_dropped == 1
                else:
                    with pytest.raises(PublishOverflow, match="1 publishes are in flight"):
                        publisher.publish_nowait("", routing_key=queue_name)
                    assert publisher.stats.tasks_failed == 1
                proxy.heal()


# ---- deadlines


@pytest.mark.alone
async def test_publish_without_a_broker_returns_at_its_deadline_as_not_sent(broker_url: str, queue_name: str) -> None:
    with proxy_to(broker_url) as proxy:
        async with Publisher.connect(proxy.url(broker_url), max_in_flight=20) as publisher:
            proxy.new_connections(Arrival.REFUSE)
            proxy.cut()
            await until(lambda: proxy.open_connections == 0)

            async def publish() -> float:
                started_at = time.monotonic()
                with pytest.raises(PublishOverflow, match="not sent"):
                    await publisher.publish("", routing_key=queue_name, timeout_s=2.0)
                return time.monotonic() - started_at

            took_s = await asyncio.gather(*(publish() for _ in range(100)))
            print(f"100 publishes with a timeout of 2 s took {min(took_s):.2f} to {max(took_s):.2f} s")
            assert min(took_s) >= 2.0
            assert max(took_s) < 2.0 + 10  # far from five turns of twenty, one after the other
            assert publisher.stats.in_flight == publisher.stats.waiting == 0


# ---- cancellation, and what only looks like it


async def test_silent_broker_raises_a_publish_error_and_never_a_cancellation(broker_url: str, queue_name: str) -> None:
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        url = f"{proxy.url(broker_url)}?heartbeat=1"
        async with Publisher.connect(url, timeout_s=10.0) as publisher:
            await publisher.publish("first", routing_key=queue_name, timeout_s=LONG_S)
            proxy.blackhole()
            with pytest.raises(BaseExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(publisher.publish(f"{number}", routing_key=queue_name))
                        for number in range(100)
                    ]
            proxy.cut()
            proxy.heal()
            assert all(isinstance(error, PublishError) for error in caught.value.exceptions)
            # the group itself cancels the others once the first has failed
            assert any(not task.cancelled() for task in tasks)
            assert (await publisher.publish("again", routing_key=queue_name, timeout_s=LONG_S)).message_id


async def test_real_cancellation_stays_one_and_empties_the_window(broker_url: str, queue_name: str) -> None:
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        async with Publisher.connect(proxy.url(broker_url), max_in_flight=10, timeout_s=2.0) as publisher:
            await publisher.publish("first", routing_key=queue_name, timeout_s=LONG_S)
            swallowing = proxy.drop(TO_CLIENT, BASIC_ACK)
            await _cancel_all(publisher, queue_name, in_flight_after=10)  # sent, and ten that wait for room
            await until(lambda: publisher.stats.in_flight == 0, 3, "the deadline of what was sent")
            proxy.remove(swallowing)
            proxy.new_connections(Arrival.REFUSE)
            proxy.cut()
            await until(lambda: proxy.open_connections == 0)
            with pytest.raises(PublishError):  # so that the loss is known
                await publisher.publish("", routing_key=queue_name, timeout_s=0.2)
            await _cancel_all(publisher, queue_name, in_flight_after=0)  # some wait for a channel, and ten for room
            proxy.heal()
            await until(lambda: publisher.stats.in_flight == 0)
            assert (await publisher.publish("last", routing_key=queue_name, timeout_s=LONG_S)).message_id
            stats = publisher.stats
            assert stats.tasks_queued == stats.tasks_processed + stats.tasks_failed


async def _cancel_all(publisher: Publisher, queue_name: str, in_flight_after: int) -> None:
    tasks = [asyncio.create_task(publisher.publish(f"{number}", routing_key=queue_name)) for number in range(20)]
    await until(lambda: publisher.stats.in_flight == 10 and publisher.stats.waiting == 10)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert (publisher.stats.in_flight, publisher.stats.waiting) == (in_flight_after, 0)


# ---- an idle connection


@pytest.mark.parametrize("how", [How.FIN, How.RST])
async def test_first_publish_after_the_connection_ended_unnoticed_is_never_silent(
    broker_url: str, queue_name: str, scale: Callable[[int, int], int], how: How
) -> None:
    rounds = scale(4, 40)
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        async with Publisher.connect(proxy.url(broker_url), timeout_s=8.0) as publisher:
            reported = Reported()
            for number in range(rounds):
                await until(lambda: proxy.open_connections > 0, 20, "the publisher to be back")
                proxy.cut(how)  # the loop has not turned since, so the publisher cannot know
                await reported.publish(publisher, f"{number}", queue_name)
                await reported.publish(publisher, f"{number}-again", queue_name)
            assert publisher.stats.in_flight == 0
        figures = reported.check(message.body.decode() for message in client.drain(queue_name))
    print(f"{rounds} times {how.value}: {figures}")
    assert len(reported.confirmed) >= rounds
