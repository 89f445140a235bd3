"""The connections of a process by role, and the channels that its handlers borrow, against a scripted broker."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel
from pamqp import commands

from mxworker.amqp.connecting import channel_pool
from mxworker.amqp.connecting.pool import Pool
from mxworker.brokers import Brokers
from mxworker.config.pool import PoolSettings
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost, PoolExhausted
from tests.harness.logged import events
from tests.harness.waiting import until
from tests.loop.amqp.connecting.test_connection import SOON_S, Least, decent, nobody_cares, under_way
from tests.loop.amqp.fake_broker import FakeBroker, Peer
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")


@asynccontextmanager
async def running(broker: FakeBroker, **settings: Any) -> AsyncIterator[Pool]:
    """Run a pool; afterwards it must end by its cancellation alone, and leave no tasks and no connections."""
    before = asyncio.all_tasks()
    pool = Pool(PoolSettings(**settings), Brokers((broker.url,)), "test", nobody_cares, Least())
    try:
        async with under_way(pool.run()):
            await until(lambda: pool.consume_link.live and pool.publish_link.live, SOON_S)
            yield pool
    finally:
        await pool.close()
    await until(lambda: not asyncio.all_tasks() - before - set(broker.tasks), SOON_S, "all tasks to end")
    assert pool.stats().active_connections + pool.stats().idle_connections == 0


def opened(broker: FakeBroker) -> list[int]:
    """Return the numbers of the channels that were opened, on all connections."""
    return numbers(broker, commands.Channel.Open)


def closed(broker: FakeBroker) -> list[int]:
    """Return the numbers of the channels that we have closed, on all connections."""
    return numbers(broker, commands.Channel.Close)


def numbers(broker: FakeBroker, kind: type) -> list[int]:
    return [number for peer in broker.peers for number, frame in peer.received if isinstance(frame, kind)]


def role_of(peer: Peer) -> str:
    (start_ok,) = [frame for _, frame in peer.received if isinstance(frame, commands.Connection.StartOk)]
    return str((start_ok.client_properties or {})["connection_name"])


# ---- the connections


@on_both_loops
async def test_one_connection_consumes_one_publishes_and_handlers_have_their_own() -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:
        assert {role_of(peer) for peer in broker.peers} == {"test consume", "test publish"}
        async with pool.channel():
            assert role_of(broker.peers[2]) == "test handlers"
        assert pool.consume_link.live is not pool.publish_link.live


@on_both_loops
async def test_connection_that_nobody_borrows_from_is_closed() -> None:
    async with FakeBroker(decent) as broker, running(broker, health_check_s=0.02, idle_trim_s=0.1) as pool:
        async with pool.channel():
            await asyncio.sleep(0.3)  # many looks, and longer than the trim time
            assert len(pool.consume_link.live.channel_numbers) == 0  # type: ignore[union-attr]
            assert pool.stats().active_connections == 3
        await until(lambda: pool.stats().active_connections + pool.stats().idle_connections == 2, SOON_S, "the trim")
        last = broker.peers[2].received
        await until(lambda: isinstance(last[-1][1], commands.Connection.Close), SOON_S, "the broker to see it")
        async with pool.channel():
            assert len(broker.peers) == 4


@on_both_loops
async def test_least_number_of_connections_is_kept() -> None:
    settings = {"min_connections": 3, "health_check_s": 0.02, "idle_trim_s": 0.05}
    async with FakeBroker(decent) as broker, running(broker, **settings) as pool:
        await until(lambda: pool.stats().idle_connections == 1, SOON_S, "the third")
        looks = asyncio.get_running_loop().time() + 0.3
        await until(lambda: asyncio.get_running_loop().time() > looks, SOON_S)
        assert len(broker.peers) == 3
        assert pool.stats().idle_connections == 1


# ---- borrowing


@on_both_loops
async def test_returned_channel_is_lent_again() -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:
        async with pool.channel() as first:
            assert first.publisher_confirms
        async with pool.channel() as second:
            assert second is first
        assert opened(broker) == [1]


@on_both_loops
async def test_all_may_be_borrowed_at_once_and_one_more_waits_and_is_told() -> None:
    async with FakeBroker(decent) as broker, AsyncExitStack() as stack:
        pool = await stack.enter_async_context(running(broker, borrow_timeout_s=8.0))
        borrowing = AsyncExitStack()
        channels: list[AbstractChannel] = []
        for _ in range(10):  # so that each has its time for a few openings only, on a busy machine
            some = (borrowing.enter_async_context(pool.channel()) for _ in range(20))
            channels += await asyncio.gather(*some)
        assert len(set(channels)) == 200
        assert pool.stats().borrowed_channels == pool.stats().total_channels == 200
        assert len(broker.peers) == 4
        started_at = time.monotonic()
        with pytest.raises(PoolExhausted, match=r"within 8 s: 200 are borrowed, and there may be 100 \+ 100 on"):
            await stack.enter_async_context(pool.channel())
        assert time.monotonic() - started_at < 8 + 15
        waiting = asyncio.create_task(borrow_once(pool))
        await borrowing.aclose()
        assert await waiting in channels


async def borrow_once(pool: Pool) -> AbstractChannel:
    async with pool.channel() as channel:
        return channel


@pytest.mark.parametrize("channel_max", [1, 8])
@on_both_loops
async def test_no_channel_is_opened_above_what_the_broker_allows(channel_max: int) -> None:
    async def small(peer: Peer) -> None:
        await peer.handshake(channel_max=channel_max)
        await peer.serve()

    async def spoil(pool: Pool) -> None:
        """Make the pool throw the channel away, so that a new one gets a number while the old one is closed."""
        async with pool.channel() as channel:
            await channel.set_qos(prefetch_count=1)

    async with FakeBroker(small) as broker, running(broker, max_connections=3, borrow_timeout_s=60) as pool:
        await asyncio.gather(*(spoil(pool) for _ in range(10 * channel_max)))
        assert len(opened(broker)) == 10 * channel_max
        assert max(opened(broker)) <= channel_max


@on_both_loops
async def test_borrowers_are_served_in_their_order() -> None:
    async with FakeBroker(decent) as broker, running(broker, max_connections=3, max_channels=1) as pool:
        served = []

        async def borrow(number: int) -> None:
            async with pool.channel():
                served.append(number)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(borrow(number))
    assert served == list(range(50))


@on_both_loops
async def test_cancelled_borrowers_leak_nothing() -> None:
    async with FakeBroker(decent) as broker, running(broker, max_connections=3, max_channels=2) as pool:
        for turns in range(40):  # from before anything was sent to after the channel was there
            waiting = [asyncio.create_task(borrow_once(pool)) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert pool.stats().borrowed_channels == 0
        async with pool.channel() as first, pool.channel() as second:
            assert first is not second
            assert pool.stats().total_channels == 2
        assert len(opened(broker)) == 2, "what was opened for one that left is lent to the next"


@on_both_loops
async def test_borrower_cancelled_in_the_turn_it_is_served_leaves_the_channel_to_the_next() -> None:
    async with FakeBroker(decent) as broker, running(broker, max_connections=3, max_channels=1) as pool:
        holding = pool.channel()
        channel = await holding.__aenter__()
        first = asyncio.create_task(borrow_once(pool))
        second = asyncio.create_task(borrow_once(pool))
        await asyncio.sleep(0)
        await holding.__aexit__(None, None, None)  # the channel is the first one's now, which has not run yet
        first.cancel()
        async with asyncio.timeout(SOON_S):
            assert await second is channel
        assert first.cancelled()


@on_both_loops
async def test_opening_that_hangs_does_not_hold_up_the_others() -> None:
    """Every second channel.open is never answered."""

    async def half_deaf(peer: Peer) -> None:
        await peer.handshake()
        while True:
            await peer.serve(commands.Channel.Open)
            number = peer.received[-1][0]
            if number % 2:
                peer.send(commands.Channel.OpenOk(), number)

    async with FakeBroker(half_deaf) as broker, running(broker, borrow_timeout_s=8) as pool, pool.channel() as first:
        borrowing = [asyncio.create_task(borrow_once(pool)) for _ in range(2)]
        assert [(await one).number for one in borrowing] == [3, 3]
        assert opened(broker) == [1, 2, 3]
        assert first.number == 1


@on_both_loops
async def test_broker_that_opens_no_channel_is_named_as_the_reason() -> None:
    async def deaf(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Channel.Open)

    async with FakeBroker(deaf) as broker, running(broker, borrow_timeout_s=6) as pool:
        with pytest.raises(ChannelLost, match=r"no channel within 6 s: the broker does not open one"):
            await borrow_once(pool)


@on_both_loops
async def test_unanswered_opening_is_given_up_and_the_number_is_not_used_again() -> None:
    async def deaf_to_the_first(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Channel.Open)
        await peer.serve()

    async with FakeBroker(deaf_to_the_first) as broker, running(broker, connect_timeout_s=2) as pool:
        with pytest.raises(ChannelLost, match=r"did not open a channel within 2 s"):
            await borrow_once(pool)
        assert (await borrow_once(pool)).number == 2 or closed(broker) == [1]


@on_both_loops
async def test_missing_broker_is_named_as_the_reason() -> None:
    async def shy(peer: Peer) -> None:
        if len(broker.peers) <= 2:
            await decent(peer)
        peer.hang_up()

    async with FakeBroker(shy) as broker, running(broker, borrow_timeout_s=6) as pool:
        with pytest.raises(ConnectionLost, match=r"no channel within 6 s: no connection to the broker: the "):
            await borrow_once(pool)


async def test_pool_that_has_ended_lends_nothing() -> None:
    async with FakeBroker(decent) as broker:
        async with running(broker) as pool:
            borrowing = AsyncExitStack()
            await borrowing.enter_async_context(pool.channel())
        with pytest.raises(ConnectionLost, match="are closed"):
            await borrow_once(pool)
        await borrowing.aclose()  # a late one returns its channel without harm


# ---- which channels are not lent again


Use = Callable[[AbstractChannel], Awaitable[object]]


async def consume(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("queue")
    tag = await queue.consume(nobody_takes)
    await queue.cancel(tag)


async def nobody_takes(message: object) -> None:
    raise AssertionError


async def get(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("queue")
    await queue.get(fail=False)


async def watch_returns(channel: AbstractChannel) -> None:
    channel.return_callbacks.add(lambda *_: None)


async def give_up_a_publish(channel: AbstractChannel) -> None:
    """The broker here confirms none."""
    underlay = await channel.get_underlay_channel()
    publishing = asyncio.ensure_future(underlay.basic_publish(b"", routing_key="queue"))
    await until(lambda: underlay.confirmations, SOON_S, "the publish to be sent: before, giving it up leaves no trace")
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def give_up_a_request(channel: AbstractChannel) -> None:
    """The broker here answers no purge. The library closes the channel, but does not say so at once."""
    queue = await channel.declare_queue("queue")
    with pytest.raises(TimeoutError):
        await queue.purge(timeout=0.05)


async def transact(channel: AbstractChannel) -> None:
    underlay = await channel.get_underlay_channel()
    with pytest.raises(TimeoutError):
        await underlay.tx_select(timeout=0.05)


SPOILING: dict[str, Use] = {
    "closed": lambda channel: channel.close(),
    "qos": lambda channel: channel.set_qos(prefetch_count=7),
    "consumed": consume,
    "got": get,
    "transaction": transact,
    "watched returns": watch_returns,
    "publish given up": give_up_a_publish,
    "request given up": give_up_a_request,
}


@pytest.mark.parametrize("how", SPOILING)
@on_both_loops
async def test_channel_that_may_not_be_as_new_is_not_lent_again(how: str) -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:
        async with pool.channel() as spoiled:
            await SPOILING[how](spoiled)
        async with pool.channel() as fresh:
            assert fresh is not spoiled
        await until(lambda: opened(broker) and closed(broker), SOON_S, "the spoiled one to be closed")
        await until(lambda: pool.stats().total_channels == 1, SOON_S, "the spoiled one to be gone")


@on_both_loops
async def test_channel_on_which_a_request_is_under_way_is_not_lent_again() -> None:
    async with FakeBroker(decent) as broker:
        async with running(broker) as pool:
            async with pool.channel() as busy:
                queue = await busy.declare_queue("queue")
                left_behind = asyncio.ensure_future(queue.purge())
                await until(lambda: numbers(broker, commands.Queue.Purge), SOON_S)
            assert await borrow_once(pool) is not busy
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(left_behind, return_exceptions=True)


async def declare(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("queue")
    await queue.bind("exchange")


@on_both_loops
async def test_channel_that_declared_is_lent_again() -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:
        for _ in range(5):
            async with pool.channel() as channel:
                await declare(channel)
        assert opened(broker) == [1]


@on_both_loops
async def test_channel_that_the_broker_closed_is_not_lent_again() -> None:
    async def refuses(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Queue.Declare)
        peer.send(commands.Channel.Close(404, "NOT_FOUND", 50, 10), peer.received[-1][0])
        await peer.serve()

    async with FakeBroker(refuses) as broker, running(broker) as pool:
        async with pool.channel() as broken:
            with pytest.raises(Exception, match="NOT_FOUND"):
                await broken.declare_queue("queue")
        async with pool.channel() as fresh:
            assert fresh is not broken
        assert len(opened(broker)) == 2
        assert len(broker.peers) == 3


# ---- lost connections


@on_both_loops
async def test_connection_lost_while_borrowed_is_an_error_and_the_next_borrow_works() -> None:
    """However the library puts it: never as a cancellation that nobody asked for, never as a hang."""
    async with FakeBroker(decent) as broker, running(broker) as pool:
        consuming = pool.consume_link.live
        for end in (Peer.hang_up, Peer.close, lambda peer: peer.write(b"garbage!")):
            with pytest.raises(Exception) as caught:  # noqa: PT012  the block is what is tested
                async with asyncio.timeout(SOON_S), pool.channel() as channel:
                    end(broker.peers[-1])
                    underlay = await channel.get_underlay_channel()
                    await underlay.basic_publish(b"", routing_key="queue")  # which the broker here does not confirm
            assert not isinstance(caught.value, TimeoutError)
            assert pool.stats().borrowed_channels == 0
            await declare(await borrow_once(pool))
        assert pool.consume_link.live is consuming


@on_both_loops
async def test_cancellation_by_the_library_is_an_error_of_the_block() -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:
        with pytest.raises(ChannelLost):  # noqa: PT012  the block is what is tested
            async with pool.channel() as channel:
                broker.peers[2].hang_up()
                await until(lambda: channel.is_closed, SOON_S)
                raise asyncio.CancelledError  # as aiormq does when its reader was cancelled


@on_both_loops
async def test_cancellation_of_the_borrower_stays_one() -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:

        async def hold() -> None:
            async with pool.channel():
                await asyncio.sleep(3600)

        holding = asyncio.create_task(hold())
        await until(lambda: pool.stats().borrowed_channels, SOON_S)
        broker.peers[2].hang_up()
        await until(lambda: pool.stats().total_channels == 0, SOON_S)
        holding.cancel()
        await asyncio.wait({holding})
        assert holding.cancelled()
        assert pool.stats().borrowed_channels == 0


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@on_both_loops
async def test_descriptors_do_not_pile_up_over_lost_connections() -> None:
    async with FakeBroker(decent) as broker, running(broker) as pool:

        async def lose_one() -> None:
            async with pool.channel() as channel:
                broker.peers[-1].hang_up()
                await until(lambda: channel.is_closed, SOON_S)

        for _ in range(5):
            await lose_one()
        before = descriptors()
        for _ in range(200):
            await lose_one()
        await borrow_once(pool)
        assert abs(descriptors() - before) <= 2
        assert len(broker.peers) >= 205


# ---- the periodic look


@on_both_loops
async def test_idle_channel_that_does_not_answer_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_pool, "PROBE_DEADLINE_S", 3.0)

    async def forgets_channel_1(peer: Peer) -> None:
        await peer.handshake()
        while True:
            await peer.serve(commands.Basic.Qos)
            if peer.received[-1][0] != 1:
                peer.send(commands.Basic.QosOk(), peer.received[-1][0])

    async with FakeBroker(forgets_channel_1) as broker, running(broker, health_check_s=0.1) as pool:
        async with pool.channel(), pool.channel():
            pass
        await until(lambda: closed(broker) == [1], SOON_S, "the check")
        assert (await borrow_once(pool)).number == 2
        assert opened(broker) == [1, 2]


@on_both_loops
async def test_checked_channel_is_lent_again() -> None:
    async with FakeBroker(decent) as broker, running(broker, health_check_s=0.02) as pool:
        channel = await borrow_once(pool)
        await until(lambda: len(numbers(broker, commands.Basic.Qos)) >= 3, SOON_S, "the checks")
        assert await borrow_once(pool) is channel


@on_both_loops
async def test_channels_above_the_warm_ones_are_closed_after_a_while() -> None:
    settings = {"warm_channels": 3, "health_check_s": 0.05, "idle_trim_s": 0.4}
    async with FakeBroker(decent) as broker, running(broker, **settings) as pool, pool.channel():
        async with AsyncExitStack() as borrowing:
            await asyncio.gather(*(borrowing.enter_async_context(pool.channel()) for _ in range(20)))
        assert pool.stats().total_channels == 21
        await until(lambda: pool.stats().total_channels == 1 + 3, SOON_S, "the trim")


async def test_health_is_told_at_each_check_whether_it_has_changed_or_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mxworker.amqp.connecting.pool")

    def told() -> list[list[int]]:
        names = ("active_connections", "idle_connections", "total_channels", "borrowed_channels", "max_connections")
        return [[line[name] for name in names] for line in events(caplog, "pool_health")]

    async with FakeBroker(decent) as broker, running(broker, health_check_s=0.05) as pool:
        await until(lambda: told()[-3:] == [[2, 0, 0, 0, 4]] * 3, SOON_S)
        async with pool.channel():
            await until(lambda: told()[-2:] == [[3, 0, 1, 1, 4]] * 2, SOON_S)
    health = "Pool health: 2 connections active and 0 idle, at most 4; 0 channels, 0 borrowed"
    assert [record.levelname for record in caplog.records if record.getMessage() == health][:1] == ["INFO"]


async def test_near_exhaustion_is_warned_of_once_per_crossing(caplog: pytest.LogCaptureFixture) -> None:
    def warnings() -> int:
        return len(events(caplog, "pool_nearly_exhausted", what="connections"))

    def told() -> int:
        return sum("Pool health" in record.msg for record in caplog.records)

    async def looks(count: int) -> None:
        enough = told() + count
        await until(lambda: told() >= enough, SOON_S, "looks")

    caplog.set_level(logging.DEBUG, "mxworker.amqp.connecting.pool")
    settings = {"max_channels": 1, "health_check_s": 0.05}
    async with FakeBroker(decent) as broker, running(broker, **settings) as pool, pool.channel():
        assert warnings() == 0
        for crossing in (1, 2):
            async with pool.channel():
                assert warnings() == crossing
                await looks(3)
                assert warnings() == crossing
            async with pool.channel():  # before the next look: no new crossing
                assert warnings() == crossing
            await looks(1)  # finds that it is over


@pytest.mark.parametrize(("channel_max", "max_channels"), [(10, 100), (2047, 10)])
async def test_near_exhaustion_of_the_channels_is_warned_of_too(
    channel_max: int, max_channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit is that of the settings, or that of the broker when it is lower."""

    async def some(peer: Peer) -> None:
        await peer.handshake(channel_max=channel_max)
        await peer.serve()

    def warnings() -> list[dict[str, Any]]:
        return events(caplog, "pool_nearly_exhausted", what="channels for handlers")

    caplog.set_level(logging.INFO, "mxworker.amqp.connecting.pool")
    settings = {"max_channels": max_channels, "max_connections": 3}
    async with FakeBroker(some) as broker, running(broker, **settings) as pool, AsyncExitStack() as borrowing:
        for _ in range(8):
            await borrowing.enter_async_context(pool.channel())
        assert warnings() == []
        for _ in range(2):
            await borrowing.enter_async_context(pool.channel())
        (warning,) = warnings()
    assert (warning["used"], warning["most"], warning["levelname"]) == (9, 10, "WARNING")


async def test_near_exhaustion_of_the_channels_of_consumers_is_found_by_the_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def few(peer: Peer) -> None:
        await peer.handshake(channel_max=10)
        await peer.serve()

    caplog.set_level(logging.INFO, "mxworker.amqp.connecting.pool")
    async with FakeBroker(few) as broker, running(broker, health_check_s=0.05) as pool:
        connection = pool.consume_link.live
        assert connection is not None
        for number in range(1, 10):
            assert events(caplog, "pool_nearly_exhausted") == []
            await connection.channel(number)
        await until(lambda: events(caplog, "pool_nearly_exhausted"), SOON_S, "the check")
        (warning,) = events(caplog, "pool_nearly_exhausted")
    assert (warning["what"], warning["used"], warning["most"]) == ("channels of consumers", 9, 10)


def test_every_failure_to_borrow_is_the_broker_s_or_passes() -> None:
    for error in (PoolExhausted, ConnectionLost, ChannelLost):
        assert issubclass(error, BrokerError)
        assert not error.permanent
