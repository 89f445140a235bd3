"""What a publisher reports is true, whatever happens to the wire: confirmed is in the queue, refused is not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial

import pytest

from mxworker import Publisher
from mxworker.errors import PublishUnconfirmed
from tests.broker.publishers import Reported, publish_all
from tests.harness.faults import TO_BROKER, TO_CLIENT, Cut, How
from tests.harness.frames import BASIC_ACK
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client

TIMEOUT_S = 8.0
LONG_S = 60.0
SLACK_S = 10.0  # the loop is one of many on the machine
SILENCE_S = 2.6  # the dead-peer timer is 2 x heartbeat, and the heartbeat is 1 s


async def _break(proxy: Proxy, cuts: int, silences: int, rng: random.Random, is_done: Callable[[], bool]) -> int:
    """Cut the connection at random bytes, fall silent at random moments, and return how many faults there were."""
    kinds = ["silence"] * silences + ["cut"] * (cuts - silences)
    rng.shuffle(kinds)
    for number, kind in enumerate(kinds):
        await until(lambda: proxy.open_connections > 0 or is_done(), 20, "the publisher to be back")
        if is_done():
            return number
        if kind == "silence":
            proxy.blackhole(*rng.choice([(TO_BROKER,), (TO_CLIENT,), ()]))
            await asyncio.sleep(SILENCE_S)  # the fault is the time itself
            proxy.cut()
            proxy.heal()
        else:
            direction = rng.choice([TO_BROKER, TO_BROKER, TO_CLIENT])
            size_bytes = rng.randrange(1, 60_000 if direction is TO_BROKER else 2_000)
            cut = proxy.cut_after(size_bytes, direction, rng.choice([How.RST, How.FIN]))
            await until(partial(_has_come, cut, is_done), 20, "the cut")
    return cuts


def _has_come(cut: Cut, is_done: Callable[[], bool]) -> bool:
    return cut.happened or is_done()


@pytest.mark.parametrize("retry", [True, False], ids=["duplicates-allowed", "never-twice"])
async def test_cut_at_random_bytes_never_makes_a_lie(
    broker_url: str, queue_name: str, rng: random.Random, scale: Callable[[int, int], int], retry: bool
) -> None:
    count = scale(5_000, 50_000)
    cuts, silences = (scale(10, 100), scale(1, 10)) if retry else (scale(10, 20), scale(1, 2))
    with Client(broker_url) as client:
        client.declare_quorum(queue_name)
        with proxy_to(broker_url, rng) as proxy:
            url = f"{proxy.url(broker_url)}?heartbeat=1"
            async with Publisher.connect(url, timeout_s=TIMEOUT_S, retry_unconfirmed=retry) as publisher:
                published = Reported()
                stop = asyncio.Event()
                faults = asyncio.create_task(_break(proxy, cuts, silences, rng, stop.is_set))
                numbers = iter(range(10 * count))

                async def work() -> None:
                    for number in numbers:
                        if number >= count and faults.done():
                            return
                        await published.publish(publisher, f"{queue_name}-{number}", queue_name)

                async with asyncio.TaskGroup() as group:
                    for _ in range(100):
                        group.create_task(work())
                stop.set()
                happened = await faults
                assert publisher.stats.in_flight == 0
        drained = [message.body.decode() for message in client.drain(queue_name)]
    figures = published.check(drained)
    print(f"{happened} faults: {figures}")
    assert happened == cuts
    assert published.slowest_s < TIMEOUT_S + SLACK_S
    assert len(published.confirmed) > count // 2
    if not retry:
        assert len(drained) == len(set(drained)), "nothing is sent twice when duplicates are not allowed"


@pytest.mark.alone
async def test_swallowed_confirms_end_unconfirmed_and_free_the_window(broker_url: str, queue_name: str) -> None:
    timeout_s = 1.0
    with Client(broker_url) as client, proxy_to(broker_url) as proxy:
        client.declare(queue_name)
        async with Publisher.connect(proxy.url(broker_url), timeout_s=timeout_s) as publisher:
            await publisher.publish("first", routing_key=queue_name, timeout_s=LONG_S)
            swallowing = proxy.drop(TO_CLIENT, BASIC_ACK)
            started_at = time.monotonic()
            outcomes = await publisher.publish_many(map(str, range(300)), routing_key=queue_name)
            took_s = time.monotonic() - started_at
            assert {type(outcome) for outcome in outcomes} == {PublishUnconfirmed}
            assert 0.9 * timeout_s < took_s < 15 * timeout_s  # far from 300 timeouts one after the other
            assert publisher.stats.in_flight == publisher.stats.waiting == 0
            proxy.remove(swallowing)
            reported = await publish_all(publisher, map(str, range(1000, 2000)), queue_name, 100, timeout_s=LONG_S)
            assert len(reported.confirmed) == 1000
            assert publisher.stats.tasks_failed == 300
