"""Subscriptions against a broker that answers late, never, or with the end of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pamqp import commands

from mxworker.amqp.connecting.connection import BrokerConnection, Dialler, Link
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.reconcile import Reconciler
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.api.delivery import Delivery
from mxworker.brokers import Brokers
from mxworker.errors import ChannelLost, ConnectionLost
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import QUEUE, SOON_S, Least, answering_late, open_soon, sent
from tests.loop.amqp.fake_broker import FakeBroker, Peer, delivery
from tests.loop.loops import on_both_loops
from tests.rabbit.raw import HOSTILE


@asynccontextmanager
async def subscribed() -> AsyncIterator[tuple[BrokerConnection, Subscription, list[Delivery], Peer]]:
    """Lend a subscription to a broker that answers everything, with what it admits and the broker's end of the wire."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve()

    async with FakeBroker(script) as broker:
        connection = await open_soon(broker)
        admitted: list[Delivery] = []
        subscription = await Subscription.open(connection, QUEUE, 10, lambda *came: admitted.extend(came))
        yield connection, subscription, admitted, broker.peers[0]


pytestmark = pytest.mark.usefixtures("log_as_in_production")


@on_both_loops
async def test_settlements_of_one_turn_are_written_together() -> None:
    async with subscribed() as (connection, subscription, admitted, peer):
        for tag in range(1, 6):
            peer.write(delivery(tag, b"body"))
        await until(lambda: len(admitted) == 5, SOON_S)
        assert subscription.unsettled == 5
        for received in admitted[:4]:
            assert subscription.ack(received)
        assert subscription.reject(admitted[4], requeue=False)
        await until(lambda: sent(peer, commands.Basic.Ack), SOON_S)
        rejected, acked = [frame for _, frame in peer.received][-2:]
        assert isinstance(rejected, commands.Basic.Reject)
        assert isinstance(acked, commands.Basic.Ack)
        assert (rejected.delivery_tag, acked.delivery_tag, acked.multiple) == (5, 4, True)
        await subscription.close()
        await connection.close()


@on_both_loops
async def test_settlement_after_the_end_is_stale_and_writes_nothing() -> None:
    async with subscribed() as (connection, subscription, admitted, peer):
        peer.write(b"".join(delivery(tag, b"body") for tag in range(1, 5)))
        await until(lambda: len(admitted) == 4, SOON_S)
        peer.send(commands.Channel.Close(406, "PRECONDITION_FAILED - delivery acknowledgement timed out", 0, 0), 1)
        assert subscription.ack(admitted[0]), "the end has not come yet"
        await until(lambda: subscription.is_lost, SOON_S)
        assert admitted[1].is_stale
        assert not subscription.ack(admitted[1])
        assert not subscription.reject(admitted[2], requeue=True)
        assert not subscription.give_back(admitted[3])
        loss = await subscription.lost
        assert isinstance(loss, ChannelLost)
        assert loss.code == 406
        await connection.channel()
        assert sent(peer, commands.Basic.Ack) <= 1
        await connection.close()


@on_both_loops
async def test_settlement_of_the_turn_in_which_the_channel_ends_is_not_written() -> None:
    async with subscribed() as (connection, subscription, admitted, peer):
        peer.write(delivery(1, b"body"))
        await until(lambda: admitted, SOON_S)
        assert subscription.ack(admitted[0])
        subscription.on_end(ChannelLost("gone"))  # its number may belong to another channel by the end of the turn
        await connection.close()
        assert not sent(peer, commands.Basic.Ack)


@on_both_loops
async def test_late_deliveries_of_a_channel_whose_close_is_not_answered_do_no_harm() -> None:
    """The library would queue them for a reader that is gone, ten, and then read nothing more, or die of a property."""
    is_closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Channel.Close)
        await is_closed.wait()
        for tag in range(1, 50):
            peer.write(delivery(tag, b"late"))
        peer.write(delivery(50, b"late", raw_properties=HOSTILE["timestamp in nanoseconds"]))
        await peer.serve()

    async with FakeBroker(script) as broker:
        connection = await open_soon(broker)
        admitted: list[Delivery] = []
        subscription = await Subscription.open(connection, QUEUE, 10, lambda *came: admitted.extend(came))
        await subscription.close()
        is_closed.set()
        async with asyncio.timeout(SOON_S):
            await connection.channel()
        assert not connection.plane.lost.done()
        assert admitted == []
        await connection.close()


@on_both_loops
async def test_subscription_whose_opening_was_cancelled_admits_nothing() -> None:
    go_on = asyncio.Event()
    consume_ok = commands.Basic.ConsumeOk("consumer")
    script = answering_late(commands.Basic.Consume, consume_ok, go_on, late=delivery(1, b"to nobody"))
    async with FakeBroker(script) as broker:
        connection = await open_soon(broker)
        admitted: list[Delivery] = []
        opening = asyncio.create_task(Subscription.open(connection, QUEUE, 10, lambda *came: admitted.extend(came)))
        await until(lambda: broker.peers and sent(broker.peers[0], commands.Basic.Consume), SOON_S)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go_on.set()
        async with asyncio.timeout(SOON_S):
            await connection.channel()
        assert admitted == []
        assert sent(broker.peers[0], commands.Channel.Close) == 1
        await connection.close()


@on_both_loops
async def test_cancel_and_barrier_end_with_a_lost_connection() -> None:
    """A drain waits for answers; the end of the connection is one, whatever the library makes of it."""
    steps: list[tuple[type[object], Callable[[Subscription], object]]] = [
        (commands.Basic.Cancel, lambda subscription: subscription.cancel()),
        (commands.Basic.Get, lambda subscription: subscription.barrier()),
        (commands.Channel.Close, lambda subscription: subscription.close()),
    ]
    for request, step in steps:

        async def script(peer: Peer, request: type = request) -> None:
            await peer.handshake()
            await peer.serve(request)
            peer.hang_up()

        async with FakeBroker(script) as broker:
            connection = await open_soon(broker)
            subscription = await Subscription.open(connection, QUEUE, 10, lambda *came: None)
            async with asyncio.timeout(SOON_S):
                await step(subscription)  # type: ignore[misc]
            assert subscription.is_lost
            await connection.close()


@asynccontextmanager
async def reconciled(broker: FakeBroker) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run a link, a consumer and a reconciler that looks often; afterwards each must end by its cancellation alone."""
    link = Link(Dialler(Brokers((broker.url,)), Least()), "test", lambda: None)
    consumer = Consumer(link, QUEUE, 10, lambda *came: None, lambda: None, Least())
    duties = [link.run(), consumer.run(), Reconciler(link, [consumer], look_every_s=0.02).run()]
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await link.close()
    assert [type(end) for end in ended] == [asyncio.CancelledError] * 3


@on_both_loops
async def test_reconciler_survives_a_connection_lost_under_its_look() -> None:
    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Queue.Declare)
        peer.hang_up()

    async with FakeBroker(script) as broker, reconciled(broker) as tasks:
        await until(lambda: len(broker.peers) >= 8 or any(task.done() for task in tasks), 30)
        assert [task for task in tasks if task.done()] == []


@on_both_loops
async def test_one_look_that_finds_no_consumer_is_no_alarm_and_two_are() -> None:
    """While a quorum queue has no leader, the broker answers that it has no consumers."""
    counts = iter([0, 1, 0, 1, 0, 0])

    async def script(peer: Peer) -> None:
        await peer.handshake()
        for count in counts:
            await peer.serve(commands.Queue.Declare)
            assert sent(peer, commands.Basic.Consume) == 1
            peer.send(commands.Queue.DeclareOk("queue", 0, count), peer.received[-1][0])
        await peer.serve()

    async with FakeBroker(script) as broker, reconciled(broker):
        await until(lambda: broker.peers and sent(broker.peers[0], commands.Basic.Consume) == 2, SOON_S)


@on_both_loops
async def test_consumer_survives_every_unanswered_step() -> None:
    """The connection ends while the broker owes the answer to each step of subscribing in turn."""
    for request in (commands.Channel.Open, commands.Basic.Qos, commands.Basic.Consume):

        async def script(peer: Peer, request: type = request) -> None:
            await peer.handshake()
            await peer.serve(request)
            peer.hang_up()

        async with FakeBroker(script) as broker:
            link = Link(Dialler(Brokers((broker.url,)), Least()), "test", lambda: None)
            consumer = Consumer(link, QUEUE, 10, lambda *came: None, lambda: None, Least())
            tasks = [asyncio.create_task(link.run()), asyncio.create_task(consumer.run())]
            try:
                await broker.accept(4)
                assert [task for task in tasks if task.done()] == []
                assert isinstance(consumer.last_error, ConnectionLost)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                await link.close()
            assert [type(end) for end in ended] == [asyncio.CancelledError] * 2
