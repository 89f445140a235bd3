"""Bodies against a budget of bytes: what is taken, what goes back, and when it goes on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from pamqp import commands

from mxworker.amqp.consuming.byte_budget import LARGE_BODY_BYTES, ByteBudget
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.api.delivery import Delivery, source_of
from mxworker.errors import InvariantError
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import (
    QUEUE,
    SOON_S,
    Consuming,
    Looked,
    answer,
    answering_late,
    consuming,
    open_soon,
    sent,
)
from tests.loop.amqp.fake_broker import FakeBroker, Peer, delivery
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")

LIMIT = 100
BIG = b"x" * 30


def bodies(*contents: bytes, first: int = 1) -> bytes:
    """Return the frames of deliveries with these bodies, tagged from `first` on."""
    return b"".join(delivery(tag, content) for tag, content in enumerate(contents, first))


def prefetches(peer: Peer) -> list[int | None]:
    """Return what the client has asked for, in order."""
    return [frame.prefetch_count for _, frame in peer.received if isinstance(frame, commands.Basic.Qos)]


def given_back(peer: Peer) -> list[int | None]:
    """Return the tags that the client has nacked, in order."""
    return [frame.delivery_tag for _, frame in peer.received if isinstance(frame, commands.Basic.Nack)]


def settle(taken: list[Delivery]) -> None:
    """Ack all that was taken."""
    while taken:
        one = taken.pop()
        source_of(one).ack(one)


def tags(taken: list[Delivery]) -> list[int]:
    return [one.delivery_tag for one in taken]


async def start(lent: Consuming) -> None:
    lent.start()
    await until(lambda: lent.consumer.is_consuming, SOON_S)


@on_both_loops
async def test_body_without_room_goes_back_after_cancel_ok_and_what_waits_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "mxworker")
    taken: list[Delivery] = []
    paused: list[bool] = []
    confirm = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Basic.Cancel)
        peer.write(bodies(b"small", BIG, first=5))
        await confirm.wait()
        peer.send(commands.Basic.CancelOk("consumer"), 1)
        await peer.serve()

    budget = ByteBudget(LIMIT)
    async with consuming(
        lambda *came: taken.extend(came), script, on_paused=lambda: paused.append(True), budget=budget
    ) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG, BIG, BIG))
        await until(lambda: sent(lent.peer, commands.Basic.Cancel), SOON_S)
        assert lent.consumer.is_as_wanted
        await until(lambda: lent.consumer.delivered == 6, SOON_S)
        assert tags(taken) == [1, 2, 3], "the small one would have room, but not its turn"
        assert budget.held_bytes == 90
        assert not given_back(lent.peer)
        confirm.set()
        await until(lambda: len(given_back(lent.peer)) == 3, SOON_S)
        assert given_back(lent.peer) == [4, 5, 6]
        source_of(taken[0]).ack(taken[0])
        await until(lambda: sent(lent.peer, commands.Basic.Ack) == 1, SOON_S)
        assert budget.held_bytes == 60
        assert sent(lent.peer, commands.Basic.Consume) == 1, "not before half is free"
        source_of(taken[1]).ack(taken[1])
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert sent(lent.peer, commands.Basic.Consume) == 2
    assert not paused
    assert [message for message in caplog.messages if "queue queue" in message] == [
        "consuming queue queue, prefetch 10",
        "queue queue is paused: byte budget",
        "consuming queue queue, prefetch 2",
    ]


@on_both_loops
async def test_every_settlement_gives_the_bytes_back_once() -> None:
    async with FakeBroker(answer) as broker:
        connection = await open_soon(broker)
        taken: list[Delivery] = []
        budget = ByteBudget(10**6)
        subscription = await Subscription.open(connection, QUEUE, 10, lambda *came: taken.extend(came), budget=budget)
        broker.peers[0].write(bodies(*[BIG] * 7))
        await until(lambda: len(taken) == 7, SOON_S)
        for number, one in enumerate(taken):
            before = budget.held_bytes
            assert before == 30 * (7 - number)
            if number == 4:
                await subscription.close()
                assert budget.held_bytes == before, "what handlers hold is held, also after the end"
            match number % 3:
                case 0:
                    assert subscription.ack(one) is (number < 4)
                case 1:
                    assert subscription.reject(one, requeue=False) is (number < 4)
                case _:
                    assert subscription.give_back(one) is (number < 4)
            with pytest.raises(InvariantError):
                subscription.ack(one)
        assert budget.held_bytes == 0
        await connection.close()


@on_both_loops
async def test_body_above_the_whole_budget_is_taken_when_nothing_is_held() -> None:
    taken: list[Delivery] = []
    budget = ByteBudget(LIMIT)
    async with consuming(lambda *came: taken.extend(came), budget=budget) as lent:
        await start(lent)
        lent.peer.write(bodies(b"x" * 1000, b"x" * 1000))
        await until(lambda: given_back(lent.peer) == [2], SOON_S)
        settle(taken)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.peer.write(bodies(b"x" * 1000, first=3))
        await until(lambda: tags(taken) == [3], SOON_S)
        assert prefetches(lent.peer) == [10, 1]


@on_both_loops
async def test_consumer_with_nothing_held_takes_a_body_beside_one_that_holds_all() -> None:
    greedy: list[Delivery] = []
    modest: list[Delivery] = []
    budget = ByteBudget(LIMIT)
    async with (
        consuming(lambda *came: greedy.extend(came), budget=budget) as first,
        consuming(lambda *came: modest.extend(came), budget=budget) as second,
    ):
        await start(first)
        await start(second)
        first.peer.write(bodies(BIG, BIG, BIG))
        await until(lambda: len(greedy) == 3, SOON_S)
        for tag in (1, 3, 5):
            second.peer.write(bodies(BIG, BIG, first=tag))
            await until(lambda tag=tag: given_back(second.peer)[-1:] == [tag + 1], SOON_S)
            assert tags(modest) == [tag]
            settle(modest)
            await until(lambda: second.consumer.is_consuming, SOON_S)
        assert prefetches(second.peer) == [10, 1, 1, 1]
        assert first.consumer.is_consuming, "it was never asked for more than there is room for"
        assert budget.held_bytes == 90


@on_both_loops
async def test_bodies_left_unread_after_all_others_were_settled_do_not_stall_the_consumer() -> None:
    """Nothing that is held will be given back any more, so nobody would tell that there is room."""
    taken: list[Delivery] = []
    go_on = asyncio.Event()
    cancel_ok = commands.Basic.CancelOk("consumer")
    script = answering_late(commands.Basic.Cancel, cancel_ok, go_on, late=bodies(BIG, first=5))
    budget = ByteBudget(LIMIT)
    budget.held_bytes = 60  # another consumer's, for all of the test
    async with consuming(lambda *came: taken.extend(came), script, budget=budget) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG))
        await until(lambda: sent(lent.peer, commands.Basic.Cancel), SOON_S)
        settle(taken)
        go_on.set()
        await until(lambda: given_back(lent.peer) == [2, 5], SOON_S)
        await until(lambda: lent.consumer.is_consuming, SOON_S)


@on_both_loops
async def test_all_settled_before_the_pause_began_does_not_leave_bodies_unread() -> None:
    budget = ByteBudget(LIMIT)
    taken: list[Delivery] = []
    async with consuming(lambda *came: taken.extend(came), budget=budget) as lent:
        await start(lent)
        subscription = lent.consumer.subscription
        assert subscription is not None
        subscription.on_deliveries([(tag, False, b"\0\0", b"\0\0", BIG) for tag in range(1, 4)])
        assert not subscription.takes(30)
        subscription.on_unread(4, 30)
        settle(taken)  # in the same turn: the reason to pause is gone before anything was asked of the broker
        assert lent.consumer.is_consuming
        await until(lambda: given_back(lent.peer) == [4], SOON_S)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert sent(lent.peer, commands.Basic.Consume) == 2


@on_both_loops
async def test_large_body_takes_room_for_what_it_is_expected_to_become() -> None:
    budget = ByteBudget(10 * LARGE_BODY_BYTES)
    taken: list[Delivery] = []
    async with consuming(lambda *came: taken.extend(came), budget=budget, growth=10) as lent:
        await start(lent)
        subscription = lent.consumer.subscription
        assert subscription is not None
        small, large = b"x" * LARGE_BODY_BYTES, b"x" * (LARGE_BODY_BYTES + 1)
        subscription.on_deliveries([(1, False, b"\0\0", b"\0\0", small)])
        assert budget.held_bytes == len(small)
        assert subscription.takes(len(small))
        assert not subscription.takes(len(large))
        subscription.on_deliveries([(2, False, b"\0\0", b"\0\0", large)])
        assert budget.held_bytes == len(small) + 10 * len(large)
        settle(taken)
        assert budget.held_bytes == 0


@on_both_loops
async def test_single_active_consumer_is_cancelled_only_when_all_it_holds_is_settled() -> None:
    """Cancelled, it hands over to another one, and the order of messages would be lost."""
    taken: list[Delivery] = []
    queue = replace(QUEUE, single_active_consumer=True)
    async with consuming(lambda *came: taken.extend(came), queue=queue, budget=ByteBudget(LIMIT), calm_s=0.05) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG, BIG, BIG, b"small"))
        await until(lambda: lent.consumer.delivered == 5, SOON_S)
        assert tags(taken) == [1, 2, 3]
        settle(taken[:2])
        await until(lambda: sent(lent.peer, commands.Basic.Ack), SOON_S)
        await asyncio.sleep(0.2)  # for what must not happen
        assert not sent(lent.peer, commands.Basic.Cancel)
        settle(taken[2:])
        await until(lambda: given_back(lent.peer) == [4, 5], SOON_S)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        kinds = [type(frame) for _, frame in lent.peer.received]
        last_ack = len(kinds) - kinds[::-1].index(commands.Basic.Ack)
        assert last_ack <= kinds.index(commands.Basic.Cancel)


@on_both_loops
async def test_single_active_consumer_goes_on_when_all_it_held_was_settled_while_a_refused_body_came() -> None:
    """Whether there is room is asked when the header comes; the body is known as left unread when it has come."""
    taken: list[Delivery] = []
    queue = replace(QUEUE, single_active_consumer=True)
    async with consuming(lambda *came: taken.extend(came), queue=queue, budget=ByteBudget(LIMIT)) as lent:
        await start(lent)
        refused = delivery(2, b"x" * LIMIT)
        half = len(refused) - LIMIT // 2
        lent.peer.write(bodies(BIG) + refused[:half])
        await until(lambda: taken, SOON_S)
        settle(taken)
        await until(lambda: sent(lent.peer, commands.Basic.Ack), SOON_S)
        lent.peer.write(refused[half:])
        await until(lambda: given_back(lent.peer) == [2], SOON_S)
        await until(lambda: lent.consumer.is_consuming and sent(lent.peer, commands.Basic.Consume) == 2, SOON_S)


@on_both_loops
async def test_reduced_prefetch_recovers_when_bodies_are_small_again() -> None:
    taken: list[Delivery] = []
    async with consuming(lambda *came: taken.extend(came), budget=ByteBudget(LIMIT), calm_s=0.05) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG, BIG, BIG))
        await until(lambda: given_back(lent.peer) == [4], SOON_S)
        settle(taken)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        lent.peer.write(bodies(BIG, first=5))
        await until(lambda: taken, SOON_S)
        await asyncio.sleep(0.2)  # for what must not happen
        assert prefetches(lent.peer) == [10, 1]
        settle(taken)
        lent.peer.write(bodies(b"tiny", b"tiny", first=6))
        await until(lambda: prefetches(lent.peer) == [10, 1, 10], SOON_S)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        assert given_back(lent.peer) == [4], "nothing was given back for it"
        await asyncio.sleep(0.2)
        assert prefetches(lent.peer) == [10, 1, 10]


@on_both_loops
async def test_channel_lost_while_full_is_replaced_by_one_that_consumes() -> None:
    taken: list[Delivery] = []
    budget = ByteBudget(LIMIT)
    async with consuming(lambda *came: taken.extend(came), budget=budget) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG, BIG, BIG))
        await until(lambda: given_back(lent.peer) == [4], SOON_S)
        lent.peer.send(commands.Channel.Close(541, "INTERNAL_ERROR", 0, 0), 1)
        await until(lambda: lent.consumer.is_consuming and sent(lent.peer, commands.Basic.Consume) == 2, SOON_S)
        assert budget.held_bytes == 90
        settle(taken)
        assert budget.held_bytes == 0


@on_both_loops
async def test_pause_while_full_gives_back_what_waits_and_outlives_the_recovery() -> None:
    taken: list[Delivery] = []
    paused: list[bool] = []
    async with consuming(
        lambda *came: taken.extend(came), on_paused=lambda: paused.append(True), budget=ByteBudget(LIMIT)
    ) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG, BIG, BIG))
        await until(lambda: given_back(lent.peer) == [4], SOON_S)
        assert not paused
        lent.consumer.pause("lunch")
        await until(lambda: paused, SOON_S)
        settle(taken)
        await until(lambda: sent(lent.peer, commands.Basic.Ack), SOON_S)
        assert lent.consumer.consumer_tag is None
        lent.consumer.resume("lunch")
        await until(lambda: lent.consumer.is_consuming, SOON_S)


@on_both_loops
async def test_consumer_that_has_all_that_its_reduced_prefetch_allows_is_not_starved() -> None:
    taken: list[Delivery] = []
    looked = Looked()
    async with consuming(lambda *came: taken.extend(came), looked.script, budget=ByteBudget(LIMIT)) as lent:
        await start(lent)
        lent.peer.write(bodies(BIG, BIG, BIG, BIG))
        await until(lambda: given_back(lent.peer) == [4], SOON_S)
        settle(taken)
        await until(lambda: lent.consumer.is_consuming, SOON_S)
        subscription = lent.consumer.subscription
        lent.peer.write(bodies(BIG, first=5))
        await until(lambda: taken, SOON_S)
        lent.reconcile()
        await until(lambda: looked.times >= 5, SOON_S, "five looks")
        assert lent.consumer.subscription is subscription
