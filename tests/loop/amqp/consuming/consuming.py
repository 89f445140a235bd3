"""What tests of consuming share: the queue, a consumer at work on a scripted broker, and how to see what it sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pamqp import base, commands

from mxworker.amqp.connecting.connection import BrokerConnection, Dialler, Link
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.reconcile import Reconciler
from mxworker.amqp.consuming.subscription import Admit
from mxworker.api.queues import Queue
from mxworker.brokers import Brokers
from tests.loop.amqp.fake_broker import FakeBroker, Peer, Script

SOON_S = 60.0
QUEUE = Queue("queue", declare="off", dead_letter=False)


class Least(random.Random):
    """No jitter and no waiting."""

    def uniform(self, a: float, b: float) -> float:
        return min(b, 0.01)


async def open_soon(broker: FakeBroker) -> BrokerConnection:
    """Connect, or fail within the time that a test has."""
    return await BrokerConnection.open(broker.url, "test", asyncio.get_running_loop().time() + SOON_S)


async def answer(peer: Peer) -> None:
    """Answer everything, as a script."""
    await peer.handshake()
    await peer.serve()


def answering_late(
    request: type[base.Frame], answer: base.Frame, go_on: asyncio.Event, *, early: bytes = b"", late: bytes = b""
) -> Script:
    """Return a script that answers the first `request`, on channel 1, only once `go_on` is set.

    `early` is written before that, `late` right before the answer.
    """

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(request)
        peer.write(early)
        await go_on.wait()
        peer.write(late)
        peer.send(answer, 1)
        await peer.serve()

    return script


class Looked:
    """A script that answers each look at the queue: 100 messages are ready."""

    def __init__(self, consumers: int = 1) -> None:
        self.times = 0
        self._consumers = consumers

    async def script(self, peer: Peer) -> None:
        await peer.handshake()
        while True:
            await peer.serve(commands.Queue.Declare)
            self.times += 1
            peer.send(commands.Queue.DeclareOk("queue", 100, self._consumers), peer.received[-1][0])


def sent(peer: Peer, kind: type[object]) -> int:
    """Return how many frames of a kind the client has sent."""
    return sum(isinstance(frame, kind) for _, frame in peer.received)


class Consuming:
    """A consumer at work, and the broker that it works on."""

    def __init__(self, broker: FakeBroker, link: Link, consumer: Consumer) -> None:
        self.broker = broker
        self.link = link
        self.consumer = consumer
        self.running: list[asyncio.Task[None]] = []

    @property
    def peer(self) -> Peer:
        """The broker's end of the present connection."""
        return self.broker.peers[-1]

    def start(self) -> None:
        """Let it run."""
        self.running = [asyncio.create_task(duty) for duty in (self.link.run(), self.consumer.run())]

    def reconcile(self) -> None:
        """Have it watched, as closely as can be."""
        self.running.append(asyncio.create_task(Reconciler(self.link, [self.consumer], look_every_s=0.02).run()))

    async def stop(self) -> None:
        """Let it run no more."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


@asynccontextmanager
async def consuming(
    admit: Admit,
    script: Script = answer,
    *,
    queue: Queue = QUEUE,
    prefetch: int = 10,
    on_paused: Callable[[], None] = lambda: None,
    **parameters: Any,
) -> AsyncIterator[Consuming]:
    """Lend a consumer that is not started yet; its tasks end with the block."""
    async with FakeBroker(script) as broker:
        link = Link(Dialler(Brokers((broker.url,)), Least()), "test", lambda: None)
        consumer = Consumer(link, queue, prefetch, admit, lambda: None, Least(), on_paused=on_paused, **parameters)
        lent = Consuming(broker, link, consumer)
        try:
            yield lent
            assert [task for task in lent.running if task.done()] == []
        finally:
            await lent.stop()
            await consumer.abandon()
            await link.close()
