"""A paused consumer: nothing is delivered, what was delivered is settled, and nobody repairs it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from pamqp import commands

from mxworker.amqp.consuming.consumer import UNPROVEN
from mxworker.api.delivery import Delivery, source_of
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import QUEUE, SOON_S, answer, answering_late, consuming, sent
from tests.loop.amqp.fake_broker import Peer, delivery
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")


def channels(peer: Peer, kind: type[object]) -> list[int]:
    """Return the channels on which the client sent frames of a kind, in order."""
    return [channel for channel, frame in peer.received if isinstance(frame, kind)]


def tags(peer: Peer) -> list[str]:
    """Return the consumer tags that the client has used, in order."""
    return [frame.consumer_tag for _, frame in peer.received if isinstance(frame, commands.Basic.Consume)]


@on_both_loops
async def test_paused_consumer_is_cancelled_and_consumes_again_on_the_same_channel() -> None:
    admitted: list[Delivery] = []
    paused: list[bool] = []
    async with consuming(lambda *came: admitted.extend(came), on_paused=lambda: paused.append(True)) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.peer.write(delivery(1, b"before") + delivery(2, b"before"))
        await until(lambda: len(admitted) == 2, SOON_S)
        lent.consumer.pause("lunch")
        lent.consumer.pause("lunch")
        assert not lent.consumer.is_consuming
        await until(lambda: paused, SOON_S)
        assert lent.consumer.is_as_wanted
        assert lent.consumer.consumer_tag is None
        assert source_of(admitted[0]).ack(admitted[0])
        await until(lambda: sent(lent.peer, commands.Basic.Ack), SOON_S)
        lent.consumer.resume("lunch")
        lent.consumer.resume("lunch")
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert source_of(admitted[1]).ack(admitted[1]), "it is not stale: its channel is still the same"
        await until(lambda: sent(lent.peer, commands.Basic.Ack) == 2, SOON_S)
        assert channels(lent.peer, commands.Basic.Consume) == [1, 1]
        assert len(set(tags(lent.peer))) == 2
        assert sent(lent.peer, commands.Basic.Cancel) == 1
        assert len(paused) == 1


@on_both_loops
async def test_what_is_given_back_when_paused_is_given_back_after_cancel_ok() -> None:
    """Given back earlier, it would come right back."""
    admitted: list[Delivery] = []
    confirm = asyncio.Event()
    cancel_ok = commands.Basic.CancelOk("consumer")
    script = answering_late(commands.Basic.Cancel, cancel_ok, confirm, early=delivery(2, b"late"))

    def give_back() -> None:
        for waiting in admitted:
            source_of(waiting).give_back(waiting)

    async with consuming(lambda *came: admitted.extend(came), script, on_paused=give_back) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.peer.write(delivery(1, b"early"))
        await until(lambda: admitted, SOON_S)
        lent.consumer.pause("lunch")
        await until(lambda: len(admitted) == 2, SOON_S)
        assert not sent(lent.peer, commands.Basic.Nack)
        confirm.set()
        await until(lambda: sent(lent.peer, commands.Basic.Nack) == 2, SOON_S)


@on_both_loops
async def test_consumer_is_paused_while_any_reason_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mxworker")
    async with consuming(lambda *came: None) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.consumer.pause("tea")
        await until(lambda: "paused: tea" in caplog.text, SOON_S)
        lent.consumer.pause("cake")
        await until(lambda: "paused: cake, tea" in caplog.text, SOON_S)
        lent.consumer.resume("tea")
        lent.consumer.resume("never given")
        await until(lambda: caplog.messages[-1].endswith("paused: cake"), SOON_S)
        assert sent(lent.peer, commands.Basic.Consume) == 1
        lent.consumer.resume("cake")
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert sent(lent.peer, commands.Basic.Cancel) == 1
        told = [message for message in caplog.messages if message.startswith(("queue", "consuming"))]
        assert told == [
            "consuming queue queue, prefetch 10",
            "queue queue is paused: tea",
            "queue queue is paused: cake, tea",
            "queue queue is paused: cake",
            "consuming queue queue, prefetch 10",
        ]


@on_both_loops
async def test_pause_that_is_taken_back_at_once_changes_nothing() -> None:
    async with consuming(lambda *came: None) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        tag = lent.consumer.consumer_tag
        lent.consumer.pause("lunch")
        lent.consumer.resume("lunch")
        lent.consumer.pause("tea")
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        assert tags(lent.peer) == [tag]
        assert sent(lent.peer, commands.Basic.Cancel) == 1


@on_both_loops
async def test_consumer_paused_before_the_start_gets_a_channel_and_consumes_nothing() -> None:
    paused: list[bool] = []
    async with consuming(lambda *came: None, on_paused=lambda: paused.append(True)) as lent:
        lent.consumer.pause("not yet")
        lent.start()
        await until(lambda: paused, SOON_S)
        assert lent.consumer.is_as_wanted
        assert not sent(lent.peer, commands.Basic.Consume)
        lent.consumer.resume("not yet")
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert channels(lent.peer, commands.Basic.Consume) == [1]


@on_both_loops
async def test_pause_that_belongs_to_each_start_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """With hundreds of queues a reload would write two lines for each of them, in each worker."""
    caplog.set_level(logging.DEBUG, "mxworker")
    paused: list[bool] = []
    async with consuming(lambda *came: None, on_paused=lambda: paused.append(True)) as lent:
        lent.consumer.pause(UNPROVEN)
        lent.start()
        await until(lambda: paused, SOON_S)
        lent.consumer.resume(UNPROVEN)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
    assert [record for record in caplog.records if record.levelno >= logging.INFO and "queue" in record.message] == []


@on_both_loops
async def test_consumer_paused_while_it_subscribes_is_cancelled_then() -> None:
    go_on = asyncio.Event()
    script = answering_late(commands.Basic.Consume, commands.Basic.ConsumeOk("consumer"), go_on)
    paused: list[bool] = []
    async with consuming(lambda *came: None, script, on_paused=lambda: paused.append(True)) as lent:
        lent.start()
        await until(lambda: lent.broker.peers and sent(lent.peer, commands.Basic.Consume), SOON_S)
        lent.consumer.pause("lunch")
        go_on.set()
        await until(lambda: paused, SOON_S)
        assert sent(lent.peer, commands.Basic.Cancel) == 1


@on_both_loops
async def test_channel_lost_while_paused_is_opened_again_and_consumes_nothing() -> None:
    admitted: list[Delivery] = []
    async with consuming(lambda *came: admitted.extend(came)) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.peer.write(delivery(1, b"before"))
        await until(lambda: admitted, SOON_S)
        lent.consumer.pause("lunch")
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        lost = lent.consumer.subscription
        lent.peer.send(commands.Channel.Close(406, "PRECONDITION_FAILED - delivery acknowledgement timed out", 0, 0), 1)
        await until(lambda: lent.consumer.subscription is not lost and lent.consumer.is_as_wanted, SOON_S)
        assert admitted[0].is_stale
        assert sent(lent.peer, commands.Basic.Consume) == 1
        lent.consumer.resume("lunch")
        await until(lambda: lent.consumer.is_consuming, SOON_S)


@on_both_loops
async def test_connection_lost_in_the_middle_of_pausing_or_resuming_is_replaced() -> None:
    for request, is_paused in ((commands.Basic.Cancel, True), (commands.Basic.Consume, False)):

        async def script(peer: Peer, request: type = request) -> None:
            await peer.handshake()
            if request is commands.Basic.Consume:
                await peer.serve(commands.Basic.Consume)
                peer.send(commands.Basic.ConsumeOk("consumer"), 1)
            await peer.serve(request)
            peer.hang_up()

        async with consuming(lambda *came: None, script) as lent:
            lent.start()
            await until(lambda: lent.consumer.is_consuming, SOON_S)
            lent.consumer.pause("lunch")
            if not is_paused:
                await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
                lent.consumer.resume("lunch")
            await lent.broker.accept(2)
            await until(lambda: lent.consumer.is_as_wanted, SOON_S)
            assert lent.consumer.is_consuming is not is_paused


@on_both_loops
async def test_consumer_that_ends_in_the_middle_of_resuming_is_cancelled_once_it_consumes() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Basic.Consume)
        peer.send(commands.Basic.ConsumeOk("first"), 1)
        await peer.serve(commands.Basic.Consume)
        await go_on.wait()
        peer.send(commands.Basic.ConsumeOk("second"), 1)
        await peer.serve()

    async with consuming(lambda *came: None, script) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.consumer.pause("lunch")
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        lent.consumer.resume("lunch")
        await until(lambda: sent(lent.peer, commands.Basic.Consume) == 2, SOON_S)
        running, lent.running = lent.running, lent.running[:1]
        running[1].cancel()
        ending = asyncio.create_task(lent.consumer.cancel())
        go_on.set()
        await asyncio.wait_for(ending, SOON_S)
        cancelled = [frame for _, frame in lent.peer.received if isinstance(frame, commands.Basic.Cancel)]
        assert [frame.consumer_tag for frame in cancelled][1:] == ["second"]


@on_both_loops
async def test_cancel_of_a_paused_consumer_asks_nothing_of_the_broker() -> None:
    async with consuming(lambda *came: None) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.consumer.pause("lunch")
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        running, lent.running = lent.running, lent.running[:1]
        running[1].cancel()
        await asyncio.wait_for(lent.consumer.cancel(), SOON_S)
        assert sent(lent.peer, commands.Basic.Cancel) == 1


@on_both_loops
async def test_paused_consumer_is_not_repaired() -> None:
    """Its queue has messages and no consumer, which would be a fault of one that consumes."""
    looks: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        while True:
            await peer.serve(commands.Queue.Declare)
            looks.append(len(peer.received))
            peer.send(commands.Queue.DeclareOk("queue", 100, 1), peer.received[-1][0])

    async with consuming(lambda *came: None, script) as lent:
        lent.start()
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.consumer.pause("lunch")
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        paused = lent.consumer.subscription
        lent.reconcile()
        await asyncio.sleep(0.2)  # for what must not happen
        assert not looks
        assert lent.consumer.subscription is paused
        lent.consumer.resume("lunch")
        await until(lambda: lent.consumer.subscription is not paused, SOON_S, "the same, consuming, to be replaced")
        assert len(looks) >= 2


async def test_is_as_wanted_and_not_consuming_without_a_connection() -> None:
    async with consuming(lambda *came: None, answer, queue=QUEUE) as lent:
        assert not lent.consumer.is_as_wanted
        lent.consumer.pause("lunch")
        assert not lent.consumer.is_as_wanted, "a paused consumer needs its channel, too"
