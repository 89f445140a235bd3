"""A consumer whose prefetch is limited for a while: when that comes into force, and that nothing goes back for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pamqp import commands

from mxworker.api.delivery import Delivery, source_of
from tests.harness.waiting import until
from tests.loop.amqp.consuming.consuming import QUEUE, SOON_S, Consuming, answering_late, consuming, sent
from tests.loop.amqp.fake_broker import Peer
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")


def prefetches(peer: Peer) -> list[int | None]:
    """Return what the client has asked for, in order."""
    return [frame.prefetch_count for _, frame in peer.received if isinstance(frame, commands.Basic.Qos)]


async def consumes(lent: Consuming, count: int) -> None:
    """Wait until it consumes for the time number `count`."""
    await until(lambda: lent.consumer.is_consuming and sent(lent.peer, commands.Basic.Consume) == count, SOON_S)


@asynccontextmanager
async def lifting_limit() -> AsyncIterator[tuple[Consuming, list[Delivery]]]:
    """Lend a single active consumer that holds a delivery, so that its limit, which was lifted, is still in force."""
    admitted: list[Delivery] = []
    queue = replace(QUEUE, single_active_consumer=True)
    async with consuming(lambda *came: admitted.extend(came), queue=queue) as lent:
        lent.consumer.limit_prefetch(1)
        lent.start()
        await consumes(lent, 1)
        lent.peer.deliver(1, b"held")
        await until(lambda: admitted, SOON_S)
        lent.consumer.limit_prefetch(None)
        await asyncio.sleep(0.1)  # for what must not happen
        assert not sent(lent.peer, commands.Basic.Cancel)
        yield lent, admitted


@on_both_loops
async def test_limit_comes_with_the_end_of_a_pause_and_is_lifted_without_giving_anything_back() -> None:
    admitted: list[Delivery] = []
    async with consuming(lambda *came: admitted.extend(came)) as lent:
        lent.start()
        await consumes(lent, 1)
        lent.consumer.pause("trouble")
        await until(lambda: lent.consumer.consumer_tag is None, SOON_S)
        lent.consumer.limit_prefetch(2)
        lent.consumer.resume("trouble")
        await consumes(lent, 2)
        assert prefetches(lent.peer) == [10, 2]
        lent.peer.deliver(1, b"held")
        await until(lambda: admitted, SOON_S)
        lent.consumer.limit_prefetch(None)
        await consumes(lent, 3)
        assert prefetches(lent.peer) == [10, 2, 10]
        assert source_of(admitted[0]).ack(admitted[0])
        await until(lambda: sent(lent.peer, commands.Basic.Ack), SOON_S)
        assert not sent(lent.peer, commands.Basic.Nack)


@on_both_loops
async def test_limit_comes_into_force_although_the_pause_before_it_never_did() -> None:
    async with consuming(lambda *came: None) as lent:
        lent.start()
        await consumes(lent, 1)
        lent.consumer.pause("trouble")
        lent.consumer.limit_prefetch(2)
        lent.consumer.resume("trouble")
        await consumes(lent, 2)
        assert prefetches(lent.peer) == [10, 2]


@on_both_loops
async def test_limit_that_comes_while_the_queue_is_about_to_be_consumed_is_not_forgotten() -> None:
    go_on = asyncio.Event()
    script = answering_late(commands.Basic.Consume, commands.Basic.ConsumeOk("consumer"), go_on)
    async with consuming(lambda *came: None, script) as lent:
        lent.start()
        await until(lambda: lent.broker.peers and sent(lent.peer, commands.Basic.Consume), SOON_S)
        lent.consumer.limit_prefetch(2)
        go_on.set()
        await consumes(lent, 2)
        assert prefetches(lent.peer) == [10, 2]


@on_both_loops
async def test_limit_is_kept_on_the_next_channel() -> None:
    async with consuming(lambda *came: None) as lent:
        lent.start()
        await consumes(lent, 1)
        lent.consumer.limit_prefetch(2)
        await consumes(lent, 2)
        lent.consumer.rebuild("test")
        await consumes(lent, 3)
        assert prefetches(lent.peer) == [10, 2, 2]


@on_both_loops
async def test_limit_above_the_prefetch_changes_nothing() -> None:
    async with consuming(lambda *came: None) as lent:
        lent.start()
        await consumes(lent, 1)
        lent.consumer.limit_prefetch(11)
        lent.consumer.limit_prefetch(None)
        await asyncio.sleep(0.1)  # for what must not happen
        assert prefetches(lent.peer) == [10]


@on_both_loops
async def test_single_active_consumer_takes_nothing_new_and_settles_all_it_has_before_its_limit_is_lifted() -> None:
    """What it took after its last settlement would be worked on beside the next consumer."""
    async with lifting_limit() as (lent, admitted):
        source_of(admitted[0]).ack(admitted[0])
        lent.peer.deliver(2, b"for the next one")
        await consumes(lent, 2)
        assert prefetches(lent.peer) == [1, 10]
        lent.peer.deliver(3, b"for us again")
        await until(lambda: len(admitted) == 2, SOON_S)
        assert [one.delivery_tag for one in admitted] == [1, 3]
        given_back = [frame.delivery_tag for _, frame in lent.peer.received if isinstance(frame, commands.Basic.Nack)]
        assert given_back == [2]


@on_both_loops
async def test_limit_of_a_single_active_consumer_is_lifted_when_nothing_more_comes_too() -> None:
    async with lifting_limit() as (lent, admitted):
        source_of(admitted[0]).ack(admitted[0])
        await consumes(lent, 2)
        assert prefetches(lent.peer) == [1, 10]
