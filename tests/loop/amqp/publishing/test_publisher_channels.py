"""A publisher whose broker nacks: its channels are replaced, but not again and again without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pamqp import commands

from mxworker import Publisher
from mxworker.amqp.publishing import channels
from mxworker.backoff import NACKING
from mxworker.errors import PublishNacked
from tests.loop.amqp.fake_broker import FakeBroker, Peer
from tests.loop.loops import on_both_loops

SOON_S = 60.0
OPEN_DEADLINE_S = 3.0


def _opened(peer: Peer) -> int:
    """Count the channels that the client has opened so far."""
    return sum(isinstance(frame, commands.Channel.Open) for _, frame in peer.received)


def _tag(peer: Peer, channel: int) -> int:
    """Return the delivery tag of the last publish on a channel."""
    tag = 0
    for number, frame in peer.received:
        if number == channel:
            tag = 0 if isinstance(frame, commands.Channel.Open) else tag + isinstance(frame, commands.Basic.Publish)
    return tag


@asynccontextmanager
async def publishing(nacks: Callable[[Peer], bool]) -> AsyncIterator[tuple[Publisher, FakeBroker]]:
    """Lend a publisher with one channel and one attempt, to a broker that nacks a publish when `nacks` says so."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        while True:
            await peer.serve(commands.Basic.Publish)
            channel, _ = peer.received[-1]
            await peer.read()  # the header
            await peer.read()  # the body
            answer = commands.Basic.Nack if nacks(peer) else commands.Basic.Ack
            peer.send(answer(_tag(peer, channel)), channel)

    async with (
        FakeBroker(script) as broker,
        Publisher.connect(f"amqp://{broker.url.place}/", channels=1, attempts=1) as publisher,
    ):
        yield publisher, broker


async def _refused_until(publisher: Publisher, is_enough: Callable[[], bool]) -> int:
    """Publish again and again until a publish is confirmed or `is_enough`; return how many were refused."""
    refused = 0
    async with asyncio.timeout(SOON_S):
        while not is_enough():
            try:
                await publisher.publish("body", routing_key="queue")
            except PublishNacked:
                refused += 1
            else:
                break
    return refused


@on_both_loops
async def test_channel_that_nacks_is_replaced() -> None:
    async with publishing(lambda peer: _opened(peer) == 1) as (publisher, broker):
        assert await _refused_until(publisher, lambda: False)
        assert publisher.stats.tasks_processed == 1
        assert _opened(broker.peers[0]) == 2


@on_both_loops
async def test_channels_that_always_nack_are_replaced_ever_more_slowly() -> None:
    loop = asyncio.get_running_loop()
    async with publishing(lambda peer: True) as (publisher, broker):
        started_at = loop.time()
        assert await _refused_until(publisher, lambda: _opened(broker.peers[0]) == 4)
        assert loop.time() - started_at >= sum(map(NACKING.ceiling_s, range(3))) - 0.05
        assert len(broker.peers) == 1


@on_both_loops
async def test_channel_that_opens_late_because_the_broker_was_blocking_does_not_end_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "_OPEN_DEADLINE_S", OPEN_DEADLINE_S)

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Channel.Open)
        number, _ = peer.received[-1]
        peer.send(commands.Connection.Blocked("low on memory"))
        await asyncio.sleep(OPEN_DEADLINE_S / 3)
        peer.send(commands.Connection.Unblocked())
        await asyncio.sleep(OPEN_DEADLINE_S)
        peer.send(commands.Channel.OpenOk(), number)
        await peer.serve(commands.Basic.Publish)
        number, _ = peer.received[-1]
        peer.send(commands.Basic.Ack(1), number)
        await peer.serve()

    async with (
        FakeBroker(script) as broker,
        Publisher.connect(f"amqp://{broker.url.place}/", channels=1, timeout_s=SOON_S) as publisher,
    ):
        await publisher.publish(b"", routing_key="q")
        assert len(broker.peers) == 1
