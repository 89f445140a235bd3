"""Several brokers and several links: who is tried, when, and what is known about the others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pamqp import commands

from mxworker.amqp.connecting.connection import Dialler, Link
from mxworker.backoff import RECONNECT, REFUSED
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.errors import ConnectionLost, CredentialsRefused
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import FakeBroker, Peer, Script
from tests.loop.loops import on_both_loops
from tests.rabbit.ports import free_port

pytestmark = pytest.mark.usefixtures("log_as_in_production")

SOON_S = 60.0


class Longest(random.Random):
    """The longest wait there can be, and a note of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append(b)
        return b


async def decent(peer: Peer) -> None:
    await peer.handshake()
    await peer.serve()


async def refuses(peer: Peer) -> None:
    await peer.start()
    peer.send(commands.Connection.Close(403, "ACCESS_REFUSED", 0, 0))


def nobody_cares() -> None:
    """Take the news that the link's error has changed."""


@asynccontextmanager
async def running(count: int, *urls: BrokerUrl) -> AsyncIterator[tuple[list[Link], Longest]]:
    """Run `count` links of one process."""
    rng = Longest()
    dialler = Dialler(Brokers(urls), rng)
    links = [Link(dialler, f"link {number}", nobody_cares) for number in range(count)]
    tasks = [asyncio.create_task(link.run()) for link in links]
    try:
        yield links, rng
        assert not any(task.done() for task in tasks), tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=SOON_S)
        await asyncio.gather(*(link.close() for link in links))


@asynccontextmanager
async def linked(at_first: Script, at_second: Script) -> AsyncIterator[tuple[FakeBroker, FakeBroker, Link, Longest]]:
    """Run two brokers, and one link to them."""
    async with (
        FakeBroker(at_first) as first,
        FakeBroker(at_second) as second,
        running(1, first.url, second.url) as ((link,), rng),
    ):
        yield first, second, link, rng


def away() -> BrokerUrl:
    """Where nobody listens."""
    return BrokerUrl("127.0.0.1", free_port())


@on_both_loops
async def test_first_broker_that_is_away_costs_one_short_rest() -> None:
    missing = away()
    async with FakeBroker(decent) as broker, running(1, missing, broker.url) as ((link,), rng):
        connection = await link.connection()
        assert connection.url == broker.url
        assert rng.asked == [RECONNECT.base_s]
        assert str(link.last_error) == f"{missing.place}: cannot connect: connection refused"


@on_both_loops
async def test_lost_connection_moves_to_the_other_broker_and_stays_there() -> None:
    async with linked(decent, decent) as (first, second, link, rng):
        assert (await link.connection()).url == first.url
        first.peers[0].hang_up()
        await second.accept(1)
        assert (await link.connection()).url == second.url
        assert len(first.peers) == 1
        assert rng.asked == [RECONNECT.base_s]
        assert isinstance(link.last_error, ConnectionLost)
        assert str(link.last_error).startswith(f"{first.url.place}: ")


@on_both_loops
async def test_what_one_link_found_out_the_others_know() -> None:
    async with (
        FakeBroker(Peer.gone) as silent,
        FakeBroker(decent) as second,
        running(3, silent.url, second.url) as (links, _),
    ):
        await silent.accept(1)
        silent.peers[0].hang_up()
        for link in links:
            assert (await link.connection()).url == second.url
        assert len(silent.peers) == 1


@on_both_loops
async def test_links_of_a_process_connect_one_after_the_other() -> None:
    under_way = 0
    most = 0

    async def slow(peer: Peer) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        await peer.handshake()
        under_way -= 1
        await peer.serve()

    async with FakeBroker(slow) as broker, running(4, broker.url) as (links, _):
        for link in links:
            await link.connection()
        assert (len(broker.peers), most) == (4, 1)


@on_both_loops
async def test_refused_at_one_broker_is_transient_while_another_lets_us_in() -> None:
    async with linked(refuses, decent) as (_, second, link, rng):
        assert (await link.connection()).url == second.url
        assert type(link.last_error) is ConnectionLost
        assert "the broker refused us: 403 ACCESS_REFUSED" in str(link.last_error)
        assert rng.asked == [REFUSED.cap_s, RECONNECT.base_s], "a slow retry there, a quick one here"


@on_both_loops
async def test_refused_by_all_is_permanent_and_nobody_is_asked_again_soon() -> None:
    async with linked(refuses, refuses) as (first, second, link, _):
        await until(lambda: isinstance(link.last_error, CredentialsRefused), SOON_S)
        assert str(link.last_error).count("ACCESS_REFUSED") == 2
        await asyncio.sleep(1)  # many times what an ordinary failure would rest
        assert (len(first.peers), len(second.peers)) == (1, 1)


@on_both_loops
async def test_refusing_broker_is_left_alone_while_another_is_away() -> None:
    missing = away()
    async with FakeBroker(refuses) as first, running(1, first.url, missing) as ((link,), rng):
        await until(lambda: rng.asked.count(RECONNECT.base_s) >= 4, SOON_S, "the second round")
        assert len(first.peers) == 1
        assert type(link.last_error) is ConnectionLost
