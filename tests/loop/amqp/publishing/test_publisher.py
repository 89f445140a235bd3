"""The publisher against a scripted broker that confirms, returns and closes in ways that no real one can be made to."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pamqp import base, commands

from mxworker import Publisher, errors
from mxworker.amqp.connecting.transport import DataPlane
from mxworker.amqp.publishing import exchanges
from mxworker.api.receipts import Receipt
from mxworker.config.publisher import PublisherSettings
from mxworker.payloads.compression import Compression
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import FakeBroker, Peer
from tests.loop.amqp.publishing.confirming import Confirming
from tests.loop.loops import on_both_loops

pytestmark = pytest.mark.usefixtures("log_as_in_production")

SHORT_S = 1.0


@asynccontextmanager
async def publishing(confirming: Confirming, **settings: Any) -> AsyncIterator[Publisher]:
    """Lend a publisher on a broker that runs the script; what is still open in the end ends unconfirmed."""
    chosen = {"channels": 1, **settings}
    async with FakeBroker(confirming.script) as broker, Publisher.connect(broker.url.dsn, **chosen) as publisher:
        yield publisher


async def outcome(receipt: Receipt, within_s: float = 10.0) -> type[errors.PublishError] | None:
    """Return the class of error that a publish ends in, None when it is confirmed."""
    await until(receipt.done, within_s, "the outcome")
    error = receipt.exception()
    return None if error is None else type(error)


def publish(publisher: Publisher, count: int, **options: Any) -> list[Receipt]:
    return [publisher.publish_nowait(b"%d" % number, routing_key="q", **options) for number in range(count)]


def done(receipts: list[Receipt]) -> list[bool]:
    return [receipt.done() for receipt in receipts]


# ---- confirms


@on_both_loops
async def test_confirms_in_any_order_concern_their_own_publishes() -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        receipts = publish(publisher, 6)
        published = await confirming.until(6)
        published[4].ack()
        assert await outcome(receipts[4]) is None
        assert done(receipts) == [False] * 4 + [True, False]
        published[1].ack(multiple=True)
        assert await outcome(receipts[1]) is None
        assert done(receipts) == [True, True, False, False, True, False]
        published[2].ack()
        published[5].ack(multiple=True)
        assert [await outcome(receipt) for receipt in receipts] == [None] * 6
        assert publisher.stats.tasks_processed == 6


@on_both_loops
async def test_multiple_nack_refuses_all_up_to_it_and_no_other() -> None:
    confirming = Confirming()
    async with publishing(confirming, attempts=1) as publisher:
        receipts = publish(publisher, 4)
        published = await confirming.until(4)
        published[1].ack()
        published[2].nack(multiple=True)
        published[3].ack()
        assert [await outcome(receipt) for receipt in receipts] == [
            errors.PublishNacked,
            None,
            errors.PublishNacked,
            None,
        ]


@on_both_loops
async def test_confirm_that_nobody_waits_for_concerns_nobody() -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        first, second = publish(publisher, 2)
        published = await confirming.until(2)
        published[0].ack()
        published[0].nack()
        peer, channel = published[0].peer, published[0].channel
        peer.send(commands.Basic.Ack(999, False), channel)
        peer.send(commands.Basic.Nack(0, False, False), channel)
        peer.send(commands.Basic.Ack(1, True), channel)
        assert await outcome(first) is None
        assert not second.done()
        published[1].ack()
        assert await outcome(second) is None


# ---- returns


@on_both_loops
async def test_return_is_certain_although_its_confirm_stays_away() -> None:
    confirming = Confirming()
    async with publishing(confirming, timeout_s=SHORT_S) as publisher:
        (receipt,) = publish(publisher, 1)
        (published,) = await confirming.until(1)
        published.give_back()
        assert await outcome(receipt) is errors.Unroutable


@on_both_loops
async def test_second_publish_of_an_id_waits_for_the_outcome_of_the_first() -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        first, second, third = publish(publisher, 3, message_id="same")
        other = publisher.publish_nowait(b"other", routing_key="q")
        published = await confirming.until(2)
        assert [one.body for one in published] == [b"0", b"other"]
        published[0].give_back()
        published[0].ack()
        published[1].ack()
        assert await outcome(first) is errors.Unroutable
        assert await outcome(other) is None
        published = await confirming.until(3)
        published[2].ack()
        assert await outcome(second) is None
        published = await confirming.until(4)
        published[3].give_back()
        published[3].ack()
        assert await outcome(third) is errors.Unroutable
        assert [one.body for one in published] == [b"0", b"other", b"1", b"2"]


@pytest.mark.parametrize("how", ["nack", "lose", "time out", "cancel"])
@on_both_loops
async def test_id_is_free_again_however_its_publish_ended(how: str) -> None:
    confirming = Confirming()
    async with publishing(confirming, attempts=1) as publisher:
        timeout_s = SHORT_S if how == "time out" else None
        first = asyncio.create_task(publisher.publish("first", routing_key="q", message_id="same", timeout_s=timeout_s))
        (sent,) = await confirming.until(1)
        second = publisher.publish_nowait("second", routing_key="q", message_id="same")
        match how:
            case "nack":
                sent.nack()
            case "lose":
                sent.peer.hang_up()
            case "cancel":
                first.cancel()
                await asyncio.wait({first})
                assert len(confirming.published) == 1, "what was sent keeps its id until it is confirmed"
                sent.ack()
        await asyncio.wait({first})
        assert first.cancelled() == (how == "cancel")
        published = await confirming.until(2)
        assert published[1].body == b"second"
        published[1].ack()
        assert await outcome(second) is None


@on_both_loops
async def test_late_return_is_not_taken_for_one_of_a_later_publish_with_that_id() -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        first = publisher.publish_nowait("first", routing_key="q", message_id="same", timeout_s=SHORT_S)
        neighbour = publisher.publish_nowait("neighbour", routing_key="q")
        (late, beside) = await confirming.until(2)
        assert await outcome(first) is errors.PublishUnconfirmed
        second = publisher.publish_nowait("second", routing_key="q", message_id="same")
        published = await confirming.until(3)
        assert published[2].channel != late.channel, "the channel with the overdue confirm is retired"
        late.give_back()
        late.ack()
        beside.ack()
        assert await outcome(neighbour) is None, "a retired channel still hears the confirms of the others"
        assert not second.done()
        published[2].ack()
        assert await outcome(second) is None


# ---- ends of channels and connections


@pytest.mark.parametrize("retry", [True, False])
@on_both_loops
async def test_channel_closed_in_the_middle_is_replaced_and_its_publishes_are_unknown(retry: bool) -> None:
    confirming = Confirming()
    async with publishing(confirming, retry_unconfirmed=retry) as publisher:
        receipts = publish(publisher, 3)
        published = await confirming.until(3)
        published[0].ack()
        published[2].close_channel(541, "INTERNAL_ERROR")
        if retry:
            for again in (await confirming.until(5))[3:]:
                again.ack()
        expected = None if retry else errors.PublishUnconfirmed
        assert [await outcome(receipt) for receipt in receipts] == [None, expected, expected]
        await _confirms_again(confirming, publisher)


@on_both_loops
async def test_publish_of_the_turn_in_which_its_channel_ended_is_not_written_there_and_not_lost() -> None:
    confirming = Confirming()
    async with publishing(confirming, max_in_flight=1, attempts=1) as publisher:
        first = publisher.publish_nowait("first", routing_key="q")
        (sent,) = await confirming.until(1)
        second = asyncio.create_task(publisher.publish("second", routing_key="q"))
        await until(lambda: publisher.stats.waiting == 1)
        sent.ack()  # lets the second one in, and in the same read:
        sent.close_channel(541, "INTERNAL_ERROR")
        (await confirming.until(2))[1].ack()
        await second
        assert await outcome(first) is None
        assert [one.body for one in confirming.published] == [b"first", b"second"]


@on_both_loops
async def test_lone_publish_is_written_at_once_and_those_after_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        (warm,) = publish(publisher, 1)
        (await confirming.until(1))[0].ack()
        await outcome(warm)
        writes: list[bytes] = []
        write = DataPlane.write
        monkeypatch.setattr(DataPlane, "write", lambda plane, data: (writes.append(data), write(plane, data)))
        receipts = publish(publisher, 3)
        assert len(writes) == 1
        published = await confirming.until(4)
        assert len(writes) == 2
        published[3].ack(multiple=True)
        assert [await outcome(receipt) for receipt in receipts] == [None] * 3


@on_both_loops
async def test_publish_of_the_turn_in_which_its_socket_broke_is_sent_by_the_next_connection() -> None:
    confirming = Confirming()
    async with publishing(confirming, retry_unconfirmed=False) as publisher:
        (warm,) = publish(publisher, 1)
        (await confirming.until(1))[0].ack()
        await outcome(warm)
        live = publisher._outbox._link.live
        assert live is not None
        assert live.plane._wire is not None
        live.plane._wire.abort()  # as the transport does when a write fails; the protocol is told a turn later
        (receipt,) = publish(publisher, 1)
        (await confirming.until(2))[1].ack()
        assert await outcome(receipt) is None


@pytest.mark.parametrize("retry", [True, False])
@on_both_loops
async def test_connection_cut_before_the_confirm_leaves_the_fate_open(retry: bool) -> None:
    confirming = Confirming()
    async with publishing(confirming, retry_unconfirmed=retry) as publisher:
        (receipt,) = publish(publisher, 1)
        (published,) = await confirming.until(1)
        published.peer.hang_up()
        if retry:
            again = (await confirming.until(2))[1]
            assert again.message_id == published.message_id
            again.ack()
        assert await outcome(receipt) is (None if retry else errors.PublishUnconfirmed)
        await _confirms_again(confirming, publisher)


@pytest.mark.parametrize(
    ("count", "code", "text", "expected"),
    [
        (1, 404, "NOT_FOUND - no exchange 'e' in vhost '/'", errors.Unroutable),
        (2, 404, "NOT_FOUND - no exchange 'e' in vhost '/'", errors.PublishUnconfirmed),
        (1, 403, "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'", errors.PublishNacked),
        (
            2,
            403,
            "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'",
            errors.PublishUnconfirmed,
        ),
        (1, 404, "NOT_FOUND - no exchange 'another' in vhost '/'", errors.PublishUnconfirmed),
        (
            1,
            406,
            "PRECONDITION_FAILED - message size 7 is larger than configured max size 5",
            errors.PublishUnconfirmed,
        ),
        (1, 406, "PRECONDITION_FAILED - message size 7 is larger than configured max size 4", errors.MessageTooLarge),
        (3, 406, "PRECONDITION_FAILED - message size 7 is larger than configured max size 4", errors.MessageTooLarge),
    ],
)
@on_both_loops
async def test_only_what_the_broker_certainly_refused_ends_refused(
    count: int, code: int, text: str, expected: type[errors.PublishError]
) -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        neighbour = publisher.publish_nowait("some", routing_key="q")
        refused = [publisher.publish_nowait("sized", exchange="e", routing_key="q") for _ in range(count)]
        published = await confirming.until(1 + count)
        published[1].close_channel(code, text)
        assert {await outcome(receipt) for receipt in refused} == {expected}
        assert await outcome(neighbour) is errors.PublishUnconfirmed


@on_both_loops
async def test_nothing_is_certain_of_a_channel_on_which_a_publish_was_given_up() -> None:
    confirming = Confirming()
    async with publishing(confirming) as publisher:
        given_up = publisher.publish_nowait("first", exchange="e", routing_key="q", timeout_s=1.0)
        later = publisher.publish_nowait("later", exchange="e", routing_key="q", timeout_s=60.0)
        published = await confirming.until(2)
        assert await outcome(given_up) is errors.PublishUnconfirmed
        published[0].close_channel(404, "NOT_FOUND - no exchange 'e' in vhost '/'")
        assert await outcome(later) is errors.PublishUnconfirmed, "it may have been the first that was refused"


@on_both_loops
async def test_retired_channel_is_closed_after_its_last_confirm() -> None:
    confirming = Confirming()
    async with publishing(confirming, timeout_s=60.0) as publisher:
        late = publisher.publish_nowait("late", routing_key="q", timeout_s=SHORT_S)
        beside = publisher.publish_nowait("beside", routing_key="q")
        published = await confirming.until(2)
        assert await outcome(late) is errors.PublishUnconfirmed
        peer, retired = published[1].peer, published[1].channel
        await _confirms_again(confirming, publisher, in_flight=1)
        assert (retired, commands.Channel.Close) not in _requests(peer)
        published[1].ack()
        assert await outcome(beside) is None
        await until(lambda: (retired, commands.Channel.Close) in _requests(peer), what="the end of the retired channel")


def _requests(peer: Peer) -> list[tuple[int, type[Any]]]:
    return [(channel, type(frame)) for channel, frame in peer.received]


async def _confirms_again(confirming: Confirming, publisher: Publisher, in_flight: int = 0) -> None:
    before = len(confirming.published)
    (receipt,) = publish(publisher, 1)
    (await confirming.until(before + 1))[-1].ack()
    assert await outcome(receipt) is None
    assert publisher.stats.in_flight == in_flight


# ---- exchanges


class Looks:
    """Finds each exchange that is looked for, and counts the looks."""

    def __init__(self) -> None:
        self.count = 0

    async def answer(self, peer: Peer, channel: int, frame: base.Frame) -> None:
        self.count += isinstance(frame, commands.Exchange.Declare)
        is_close = isinstance(frame, commands.Channel.Close)
        peer.send(commands.Channel.CloseOk() if is_close else commands.Exchange.DeclareOk(), channel)


@on_both_loops
async def test_publish_does_not_overtake_those_that_wait_for_the_look_at_their_exchange() -> None:
    publisher: Publisher

    async def on_look(peer: Peer, channel: int, frame: base.Frame) -> None:
        if isinstance(frame, commands.Exchange.Declare):
            peer.send(commands.Exchange.DeclareOk(), channel)
        else:
            publish(publisher, 1, exchange="e", message_id="later")
            await asyncio.sleep(0)
            peer.send(commands.Channel.CloseOk(), channel)

    confirming = Confirming(on_look=on_look)
    async with publishing(confirming) as publisher:
        publish(publisher, 2, exchange="e")
        published = await confirming.until(3)
        for one in published:
            one.ack()
        assert [one.message_id for one in published].index("later") == 2
        confirming._on_look = None


@on_both_loops
async def test_exchange_is_looked_for_once_for_each_connection() -> None:
    looks = Looks()
    confirming = Confirming(on_look=looks.answer)
    async with publishing(confirming) as publisher:
        for number in range(1, 5):
            (receipt,) = publish(publisher, 1, exchange="e")
            sent = (await confirming.until(number))[-1]
            sent.ack()
            assert await outcome(receipt) is None
            assert looks.count == (1 if number <= 2 else 2)
            if number == 2:
                lost = publisher._outbox._link.live
                sent.peer.hang_up()
                await until(lambda lost=lost: publisher._outbox._link.live is not lost)  # type: ignore[misc]


@on_both_loops
async def test_exchange_that_is_deleted_meanwhile_is_looked_for_again() -> None:
    looks = Looks()
    confirming = Confirming(on_look=looks.answer)
    async with publishing(confirming, timeout_s=60.0) as publisher:
        (first,) = publish(publisher, 1, exchange="e")
        (sent,) = await confirming.until(1)
        sent.close_channel(404, "NOT_FOUND - no exchange 'e' in vhost '/'")
        assert await outcome(first) is errors.Unroutable
        (second,) = publish(publisher, 1, exchange="e")
        (await confirming.until(2))[1].ack()
        assert await outcome(second) is None
        assert looks.count == 2


@on_both_loops
async def test_exchange_that_may_not_be_written_to_is_left_alone_for_a_while() -> None:
    confirming = Confirming()
    async with publishing(confirming, timeout_s=60.0) as publisher:
        (first,) = publish(publisher, 1, exchange="e")
        (sent,) = await confirming.until(1)
        sent.close_channel(403, "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'")
        assert await outcome(first) is errors.PublishNacked
        (second,) = publish(publisher, 1, exchange="e")
        assert await outcome(second) is errors.PublishNacked
        assert len(confirming.published) == 1


async def test_look_that_is_never_answered_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_LOOK_DEADLINE_S", 0.5)
    looks = 0

    async def on_look(peer: Peer, channel: int, frame: base.Frame) -> None:
        nonlocal looks
        if isinstance(frame, commands.Channel.Close):
            peer.send(commands.Channel.CloseOk(), channel)
            return
        looks += 1
        if looks > 1:
            peer.send(commands.Exchange.DeclareOk(), channel)

    confirming = Confirming(on_look=on_look)
    async with publishing(confirming, timeout_s=30.0) as publisher:
        (receipt,) = publish(publisher, 1, exchange="e")
        await until(lambda: confirming.published, 20, "the publish")
        confirming.published[0].ack()
        assert await outcome(receipt) is None


# ---- settings


@on_both_loops
async def test_connect_takes_settings_and_single_options_replace_theirs() -> None:
    confirming = Confirming()
    chosen = PublisherSettings(max_in_flight=2, overflow="raise", timeout_s=SHORT_S, channels=2)
    async with publishing(confirming, settings=chosen, max_in_flight=1, channels=1) as publisher:
        (first,) = publish(publisher, 1)
        with pytest.raises(errors.PublishOverflow, match="1 publishes are in flight"):
            await publisher.publish("", routing_key="q")
        assert await outcome(first) is errors.PublishUnconfirmed


@pytest.mark.parametrize(
    ("said", "compression"),
    [
        ({}, None),
        ({"compression": "gzip"}, Compression()),
        ({"compression": Compression("gzip", 9)}, Compression("gzip", 9)),
        ({"settings": PublisherSettings(compression="gzip", compression_level=2)}, Compression("gzip", 2)),
        ({"settings": PublisherSettings(compression="gzip"), "compression": "none"}, None),
        ({"compression": "gzip", "compression_threshold_bytes": 7}, Compression(threshold_bytes=7)),
    ],
)
async def test_connect_takes_compression_as_a_name_a_value_or_a_setting(
    said: dict[str, Any], compression: Compression | None
) -> None:
    async with publishing(Confirming(), **said) as publisher:
        assert publisher._encoder._compression == compression


async def test_drain_waits_as_long_as_the_settings_say() -> None:
    async with publishing(Confirming(), drain_timeout_s=0.01) as publisher:
        (receipt,) = publish(publisher, 1)
        assert not await publisher.drain()
        assert not receipt.done()


async def test_option_that_there_is_not_is_named() -> None:
    with pytest.raises(TypeError, match="max_inflight"):
        async with Publisher.connect("amqp://127.0.0.1:1/", max_inflight=1):  # type: ignore[call-arg]
            raise AssertionError


# ---- what publishes wait for


class NotAgain(Confirming):
    """Does not answer the connections that come after a publish."""

    async def script(self, peer: Peer) -> None:
        await (peer.gone() if self.published else super().script(peer))


@on_both_loops
async def test_stats_say_what_publishes_wait_for() -> None:
    async def on_look(peer: Peer, channel: int, frame: base.Frame) -> None:
        if isinstance(frame, commands.Channel.Close):
            peer.send(commands.Channel.CloseOk(), channel)

    confirming = NotAgain(on_look=on_look)
    async with publishing(confirming, max_in_flight=5) as publisher:
        first, _ = publish(publisher, 2, message_id="same")
        publish(publisher, 1, exchange="unknown")
        (sent,) = await confirming.until(1)
        sent.peer.send(commands.Connection.Blocked("low on memory"))
        await until(lambda: publisher.stats.is_blocked)
        publish(publisher, 2)
        waiting = asyncio.create_task(publisher.publish("", routing_key="q"))
        await until(lambda: publisher.stats.waiting)
        expected = {"window": 1, "room": 2, "same id": 1, "exchange": 1, "connection": 0, "retry": 0}
        assert publisher.stats.waiting_for == expected
        sent.peer.hang_up()
        assert await outcome(first) is errors.PublishUnconfirmed
        await until(lambda: publisher.stats.waiting_for["connection"])
        waiting.cancel()
        await asyncio.wait({waiting})
        assert publisher.stats.in_flight == sum(publisher.stats.waiting_for.values()), "nothing is sent any more"


# ---- limits


@on_both_loops
async def test_thousands_that_do_not_fit_the_connection_are_refused_one_by_one() -> None:
    confirming = Confirming(frame_max=4096)
    async with publishing(confirming, max_in_flight=1, timeout_s=60.0) as publisher:
        first = publisher.publish_nowait("first", routing_key="q")
        (sent,) = await confirming.until(1)
        fat = [
            asyncio.create_task(publisher.publish("", routing_key="q", headers={"h": "x" * 4096})) for _ in range(2000)
        ]
        last = asyncio.create_task(publisher.publish("last", routing_key="q"))
        await until(lambda: publisher.stats.waiting == 2001)
        sent.ack()
        (await confirming.until(2))[1].ack()
        outcomes = await asyncio.gather(*fat, last, return_exceptions=True)
        assert {type(one) for one in outcomes[:-1]} == {errors.MessageTooLarge}
        assert not isinstance(outcomes[-1], BaseException)
        assert await outcome(first) is None
        assert [one.body for one in confirming.published] == [b"first", b"last"]


@on_both_loops
async def test_broker_that_stops_reading_does_not_fill_the_memory() -> None:
    confirming = Confirming()
    async with publishing(confirming, timeout_s=1.0, max_in_flight=1000) as publisher:
        (warm,) = publish(publisher, 1)
        (sent,) = await confirming.until(1)
        sent.ack()
        assert await outcome(warm) is None
        sent.peer.stop_reading()
        body = bytes(100_000)
        tracemalloc.start()
        try:
            receipts = [publisher.publish_nowait(body, routing_key="q") for _ in range(1000)]
            outcomes = {await outcome(receipt) for receipt in receipts}
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"100 MB offered to a broker that does not read: at most {peak_bytes / 1e6:.1f} MB of memory")
        assert peak_bytes < 6_000_000
        assert outcomes == {errors.PublishOverflow, errors.PublishUnconfirmed}, (
            "some were written, the others never sent"
        )
        sent.peer.hang_up()


@pytest.mark.parametrize("when_blocked", ["wait", "raise"])
@on_both_loops
async def test_blocked_connection_is_written_nothing(when_blocked: Any) -> None:
    confirming = Confirming()
    async with publishing(confirming, when_blocked=when_blocked) as publisher:
        (first,) = publish(publisher, 1)
        (sent,) = await confirming.until(1)
        sent.ack()
        sent.peer.send(commands.Connection.Blocked("low on memory"))
        await until(lambda: publisher.stats.is_blocked)
        if when_blocked == "raise":
            with pytest.raises(errors.PublishOverflow, match="low on memory"):
                await publisher.publish("", routing_key="q")
            assert publisher.stats.tasks_failed == 1
        else:
            cut_short = asyncio.create_task(publisher.publish("cancelled", routing_key="q"))
            with pytest.raises(errors.PublishOverflow, match="low on memory"):
                await publisher.publish("late", routing_key="q", timeout_s=SHORT_S)
            (second,) = publish(publisher, 1)
            cut_short.cancel()
            await asyncio.wait({cut_short})
            assert cut_short.cancelled()
            assert len(confirming.published) == 1
            sent.peer.send(commands.Connection.Unblocked())
            (await confirming.until(2))[1].ack()
            assert await outcome(second) is None
        assert await outcome(first) is None
        assert publisher.stats.in_flight == 0
