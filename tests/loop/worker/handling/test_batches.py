"""What becomes of each delivery of a batch, whatever its handler does; with deliveries that nobody sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Reject, Requeue
from mxworker.api.delivery import Delivery
from mxworker.board.metrics_layout import Outcome
from tests.harness.runners import Bench, Channel, at_work, deliveries
from tests.harness.waiting import until

A_WHILE_S = 60.0  # longer than any test: a batch that is not full waits


def batching(outcome: Any, taken: list[list[Any]], size: int = 4, **said: Any) -> Handlers:
    """Return a handler of batches that notes its payloads and ends in `outcome`, raised when it is an exception."""
    handlers = Handlers()

    @handlers.consume_batch("queue", size=size, wait=said.pop("wait", A_WHILE_S), retry=None, **said)
    async def take(payloads: list[str]) -> Any:
        taken.append(payloads)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return handlers


def bodies(channel: Channel, *texts: bytes) -> list[Delivery]:
    return [Delivery(text, b"\0\0", b"\0\0", False, tag, channel) for tag, text in enumerate(texts, 1)]


async def handled(handlers: Handlers, *texts: bytes) -> tuple[Channel, Bench]:
    """Have the deliveries of one batch handled to the end."""
    bench, channel = at_work(handlers), Channel()
    for delivery in bodies(channel, *texts):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.is_idle)
    assert not bench.broken
    assert channel.settled == len(texts)
    await until(lambda: not bench.slot.told.in_flight())
    return channel, bench


# ---- settlements


async def test_nothing_returned_acks_all() -> None:
    taken: list[list[str]] = []
    channel, bench = await handled(batching(None, taken), b"a", b"b", b"c", b"d")
    assert taken == [["a", "b", "c", "d"]]
    assert channel.acked == [1, 2, 3, 4]
    assert bench.count(Outcome.ACK) == 4


@pytest.mark.parametrize("outcome", [Reject("no"), Reject], ids=["instance", "class"])
async def test_one_settlement_is_for_all(outcome: Any) -> None:
    channel, _ = await handled(batching(outcome, []), b"a", b"b", b"c", b"d")
    assert channel.rejected == [1, 2, 3, 4]


async def test_settlement_that_is_raised_is_for_all() -> None:
    channel, _ = await handled(batching(Requeue(), []), b"a", b"b", b"c", b"d")
    assert channel.requeued == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [list, tuple])
async def test_each_delivery_gets_its_own_settlement(kind: type) -> None:
    outcome = kind([None, Reject("no"), Ack(), Requeue])
    channel, bench = await handled(batching(outcome, []), b"a", b"b", b"c", b"d")
    assert (channel.acked, channel.rejected, channel.requeued) == ([1, 3], [2], [4])
    assert [bench.count(word) for word in (Outcome.ACK, Outcome.REJECT, Outcome.REQUEUE)] == [2, 1, 1]


@pytest.mark.parametrize("length", [0, 3, 5])
async def test_list_of_another_length_is_a_failure_of_all(length: int, caplog: pytest.LogCaptureFixture) -> None:
    channel, _ = await handled(batching([Ack()] * length, []), b"a", b"b", b"c", b"d")
    assert channel.rejected == [1, 2, 3, 4]
    assert f"returned {length} settlements for 4 payloads" in caplog.text
    assert "take failed on message (no id, delivery tag 1) and 3 more of queue queue" in caplog.text


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3)], ids=["exception", "SystemExit"])
async def test_what_is_raised_is_a_failure_of_all(error: BaseException) -> None:
    channel, _ = await handled(batching(error, []), b"a", b"b", b"c", b"d")
    assert channel.rejected == [1, 2, 3, 4]


async def test_failed_batch_without_a_retry_queue_goes_back_one_by_one() -> None:
    handlers = Handlers()

    @handlers.consume_batch("queue", size=2)
    async def fail(payloads: list[str]) -> None:
        raise ValueError

    bench, channel = at_work(handlers), Channel()
    for delivery in bodies(channel, b"a", b"b"):
        bench.runner.admit(delivery)
    await until(lambda: len(channel.given_back) == 2, 10, "both to be back")
    assert channel.settled == 2


# ---- what cannot be decoded


async def test_undecodable_body_is_a_dead_letter_alone() -> None:
    taken: list[list[str]] = []
    channel, _ = await handled(batching(None, taken), b"a", b"\xff", b"c", b"\xfe")
    assert taken == [["a", "c"]]
    assert (channel.acked, channel.rejected) == ([1, 3], [2, 4])


async def test_settlements_belong_to_the_payloads_that_could_be_decoded() -> None:
    channel, _ = await handled(batching([Requeue(), None], []), b"\xff", b"b", b"\xff", b"d")
    assert (channel.acked, channel.rejected, channel.requeued) == ([4], [1, 3], [2])


async def test_context_has_the_deliveries_of_the_payloads() -> None:
    handlers = Handlers()
    seen: list[tuple[list[bytes], list[bytes], int]] = []

    @handlers.consume_batch("queue", size=3, retry=None)
    async def take(payloads: list[str], ctx: Context) -> None:
        seen.append(([delivery.body for delivery in ctx.deliveries], [ctx.delivery.body], len(payloads)))

    await handled(handlers, b"\xff", b"b", b"c")
    assert seen == [([b"b", b"c"], [b"b"], 2)]


async def test_batch_of_which_nothing_can_be_decoded_calls_nobody() -> None:
    taken: list[list[str]] = []
    channel, _ = await handled(batching(None, taken), *4 * [b"\xff"])
    assert not taken
    assert channel.rejected == [1, 2, 3, 4]


async def test_undecodable_body_is_a_dead_letter_also_when_the_handler_runs_out_of_time() -> None:
    handlers = Handlers()

    @handlers.consume_batch("queue", size=2, timeout=0.05, on_error="requeue")
    async def slow(payloads: list[str]) -> None:
        await asyncio.sleep(A_WHILE_S)

    channel, _ = await handled(handlers, b"\xff", b"b")
    assert (channel.rejected, channel.requeued) == ([1], [2])


# ---- batches at work


async def test_batch_of_one_is_a_list_of_one() -> None:
    taken: list[list[str]] = []
    await handled(batching(None, taken, size=1), b"a", b"b", b"c")
    assert taken == [["a"], ["b"], ["c"]]


async def test_body_above_max_bytes_is_handled_alone() -> None:
    taken: list[list[str]] = []
    await handled(batching(None, taken, max_bytes=10, wait=0.01), b"a", b"b" * 11, b"c" * 10)
    assert taken == [["a"], ["b" * 11], ["c" * 10]]


async def test_batch_that_is_not_full_is_handled_when_it_is_old() -> None:
    taken: list[list[str]] = []
    bench, channel = at_work(batching(None, taken, wait=0.02)), Channel()
    for delivery in bodies(channel, b"a", b"b"):
        bench.runner.admit(delivery)
    assert bench.runner.waiting == 2
    assert not bench.runner.is_idle
    await until(lambda: channel.settled == 2, 10, "both")
    assert taken == [["a", "b"]]
    assert bench.runner.is_idle


async def test_batches_run_one_at_a_time_and_those_that_wait_are_counted_by_the_delivery() -> None:
    handlers = Handlers()
    release = asyncio.Event()
    running = most = 0

    @handlers.consume_batch("queue", size=2, retry=None, wait=A_WHILE_S)
    async def hold(payloads: list[str]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 7):
        bench.runner.admit(delivery)
    await asyncio.sleep(0)
    assert (bench.runner.running, bench.runner.waiting) == (1, 5)
    assert len(bench.slot.told.in_flight()) == 2
    release.set()
    await until(lambda: channel.settled == 6, 10, "three batches")
    assert most == 1
    assert bench.runner.waiting == 1


async def test_timeout_is_for_the_batch_and_its_settlement_for_each() -> None:
    handlers = Handlers()

    @handlers.consume_batch("queue", size=3, retry=None, timeout=0.05)
    async def slow(payloads: list[str]) -> None:
        await asyncio.sleep(A_WHILE_S)

    channel, _ = await handled(handlers, b"a", b"b", b"c")
    assert channel.rejected == [1, 2, 3]


async def test_middleware_gets_the_list_and_may_replace_it() -> None:
    taken: list[list[str]] = []
    handlers = batching(None, taken)
    seen: list[Any] = []

    @handlers.middleware
    async def shout(payloads: Any, ctx: Any, call_next: Any) -> Any:
        seen.append((list(payloads), len(ctx.deliveries)))
        await call_next([payload.upper() for payload in payloads], ctx)
        return [None, Reject(), None, None]

    channel, _ = await handled(handlers, b"a", b"b", b"c", b"d")
    assert seen == [(["a", "b", "c", "d"], 4)]
    assert taken == [["A", "B", "C", "D"]]
    assert channel.rejected == [2]


async def test_def_handler_takes_batches_too() -> None:
    handlers = Handlers()

    @handlers.consume_batch("queue", size=3, retry=None)
    def take(payloads: list[str]) -> list[Any]:
        return [None, Reject(), None]

    channel, _ = await handled(handlers, b"a", b"b", b"c")
    assert (channel.acked, channel.rejected) == ([1, 3], [2])


# ---- lost channels, and draining


async def test_delivery_of_a_lost_channel_is_not_in_the_batch() -> None:
    taken: list[list[str]] = []
    bench, lost, alive = at_work(batching(None, taken)), Channel(), Channel()
    for delivery in bodies(lost, b"old 1", b"old 2"):
        bench.runner.admit(delivery)
    lost.is_lost = True
    for delivery in bodies(alive, b"new 1", b"new 2"):
        bench.runner.admit(delivery)
    await bench.runner.finished()
    assert taken == [["new 1", "new 2"]]
    assert alive.acked == [1, 2]
    assert (bench.count(Outcome.STALE), bench.count(Outcome.ACK)) == (2, 2)


async def test_batch_of_lost_channels_alone_calls_nobody() -> None:
    taken: list[list[str]] = []
    bench, lost = at_work(batching(None, taken)), Channel()
    early = bodies(lost, b"a", b"b", b"c", b"d")
    for delivery in early[:3]:
        bench.runner.admit(delivery)
    lost.is_lost = True
    bench.runner.admit(early[3])
    await bench.runner.finished()
    assert not taken
    assert bench.count(Outcome.STALE) == 4
    assert not bench.broken


async def test_batch_whose_channel_is_lost_while_it_runs_is_stale_one_by_one() -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume_batch("queue", size=3)
    async def hold(payloads: list[str]) -> list[Any]:
        await release.wait()
        return [None, Requeue(), Reject()]

    bench, channel = at_work(handlers), Channel()
    for delivery in bodies(channel, b"a", b"b", b"c"):
        bench.runner.admit(delivery)
    await asyncio.sleep(0)
    channel.is_lost = True
    release.set()
    await bench.runner.finished()
    assert bench.count(Outcome.STALE) == 3
    assert not bench.broken


@pytest.mark.parametrize("call", ["return_all", "return_waiting"])
async def test_partial_batch_is_given_back_in_a_drain(call: str) -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume_batch("queue", size=3, wait=A_WHILE_S)
    async def hold(payloads: list[str]) -> None:
        await release.wait()

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 8):  # one batch runs, one waits, one is not full
        bench.runner.admit(delivery)
    await asyncio.sleep(0)
    bench.runner.hold()
    getattr(bench.runner, call)()
    assert sorted(channel.given_back) == [4, 5, 6, 7, 8]
    assert bench.runner.waiting == 0
    release.set()
    await bench.runner.finished()
    assert channel.acked == [1, 2, 3]


@pytest.mark.parametrize("opened", [1, 3], ids=["only", "one of some"])
async def test_partial_batch_is_given_back_in_a_pause_and_not_run(opened: int) -> None:
    """Nothing is held in a pause, so the place for the batch is free."""
    taken: list[list[str]] = []
    bench, channel = at_work(batching(None, taken, size=4)), Channel()
    early = deliveries(channel, opened + 4)
    for delivery in early[:opened]:
        bench.runner.admit(delivery)
    bench.runner.return_waiting()
    assert channel.given_back == list(range(1, opened + 1))
    assert bench.runner.is_idle
    for delivery in early[opened:]:  # after the pause
        bench.runner.admit(delivery)
    await bench.runner.finished()
    assert channel.acked == list(range(opened + 1, opened + 5))
    assert len(taken) == 1


async def test_delivery_that_arrives_late_in_a_drain_goes_back_at_once() -> None:
    taken: list[list[str]] = []
    bench, channel = at_work(batching(None, taken)), Channel()
    early, *late = deliveries(channel, 3)
    bench.runner.hold()
    bench.runner.admit(early)
    bench.runner.return_all()
    assert channel.given_back == [1]
    for delivery in late:
        bench.runner.admit(delivery)
    assert channel.given_back == [1, 2, 3]
    assert bench.runner.is_idle
    assert not taken


async def test_batch_that_is_cut_short_stays_unsettled_unless_it_still_succeeds() -> None:
    handlers = Handlers()

    @handlers.consume_batch("queue", size=3)
    async def stubborn(payloads: list[str]) -> list[Any]:
        try:
            await asyncio.sleep(A_WHILE_S)
        except asyncio.CancelledError:
            return [None, Reject(), None]
        return []

    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, 3):
        bench.runner.admit(delivery)
    await asyncio.sleep(0)
    bench.runner.cut_short()
    await bench.runner.finished()
    assert channel.acked == [1, 3]
    assert channel.settled == 2, "what the cancellation made it reject is for another worker"
    assert not bench.broken
