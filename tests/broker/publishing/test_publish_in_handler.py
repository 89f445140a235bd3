"""The order of a relay, step by step: the output's confirm, then the input's ack. One worker, behind a proxy."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from mxworker import Ack, Context, Handlers, Publisher
from mxworker.api.receipts import Receipt
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics_layout import Outcome
from mxworker.config.publisher import PublisherSettings
from mxworker.errors import PublishOverflow, PublishUnconfirmed, Unroutable
from tests.broker.workers import running
from tests.harness.faults import TO_CLIENT
from tests.harness.frames import BASIC_ACK, Frame
from tests.harness.logged import events
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client

SOON_S = 60.0
PATIENT = PublisherSettings(timeout_s=60)


class Withheld:
    """A proxy that keeps the confirms back. Deliveries are acked in the other direction, so those pass."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._frames: list[bytes] = []
        self._rule = proxy.on(TO_CLIENT, BASIC_ACK, self._withhold)

    def _withhold(self, frame: Frame) -> bytes:
        self._frames.append(frame.raw)
        return b""

    def __len__(self) -> int:
        return len(self._frames)

    def release(self) -> None:
        """Let the confirms go."""
        self._proxy.remove(self._rule)
        self._proxy.inject(TO_CLIENT, b"".join(self._frames))


# Publishers that do not wait, each in its own way; the receipt is nobody's.


async def _from_the_handler(ctx: Context, output: str) -> None:
    ctx.publisher.publish_nowait(ctx.delivery.body, routing_key=output)


async def _from_child_tasks(ctx: Context, output: str) -> None:
    await asyncio.gather(*(_from_the_handler(ctx, output) for _ in range(3)))


async def _from_a_task_nobody_waits_for(ctx: Context, output: str) -> None:
    child = asyncio.create_task(_from_the_handler(ctx, output))
    await asyncio.sleep(0)
    assert child.done()


@pytest.mark.parametrize("publish", [_from_the_handler, _from_child_tasks, _from_a_task_nobody_waits_for])
async def test_input_is_not_acked_before_the_confirm_of_its_output(
    publish: Callable[[Context, str], Awaitable[None]], broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    await assert_not_acked_before_the_confirm(lambda ctx: publish(ctx, output), broker_url, queue_name, admin)


async def assert_not_acked_before_the_confirm(
    publish: Callable[[Context], Awaitable[None]], broker_url: str, queue: str, admin: Client
) -> None:
    """Check that a message whose handler calls `publish` is in flight until the confirms come, and then acked."""
    handlers = Handlers()
    returned: list[bytes] = []

    @handlers.consume(queue, retry=None)
    async def relay(body: bytes, ctx: Context) -> None:
        await publish(ctx)
        returned.append(body)

    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers, publisher=PATIENT) as worker:
        withheld = Withheld(proxy)
        admin.publish(queue, [b"1"])
        await until(lambda: returned and len(withheld), SOON_S, "the confirm")
        await asyncio.sleep(0.2)  # for what must not happen
        assert worker.count(Outcome.ACK) == 0
        assert len(worker.slot.told.in_flight()) == 1
        withheld.release()
        await until(lambda: worker.count(Outcome.ACK) == 1, SOON_S, "the ack")


@pytest.mark.parametrize("ending", ["None", "Ack()", "raise Ack()"])
async def test_unroutable_output_makes_its_input_a_dead_letter(
    ending: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, retry=None)
    async def relay(body: bytes, ctx: Context) -> object:
        ctx.publisher.publish_nowait(body, routing_key=f"{queue_name}.missing")
        if ending == "raise Ack()":
            raise Ack
        return None if ending == "None" else Ack()

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name, Outcome.REJECT)
        await until(lambda: admin.counts(f"{queue_name}.dlq").messages == 1, SOON_S, "the dead letter")
        assert worker.count(Outcome.ACK) == 0


async def test_failure_that_the_handler_has_seen_is_its_own_business(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, retry=None)
    async def relay(body: bytes, ctx: Context) -> None:
        with suppress(Unroutable):
            await ctx.publisher.publish_nowait(body, routing_key=f"{queue_name}.missing")

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)


async def test_each_handler_waits_for_its_own_outputs_only(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    both = asyncio.Barrier(2)

    @handlers.consume(queue_name, retry=None)
    async def relay(body: str, ctx: Context) -> None:
        await both.wait()
        routing_key = f"{queue_name}.missing" if body == "bad" else f"{queue_name}.dlq"
        await asyncio.gather(*(_nowait(ctx.publisher, body, routing_key) for _ in range(3)))
        await both.wait()

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"bad", b"good"])
        await until(lambda: worker.count(Outcome.ACK) + worker.count(Outcome.REJECT) == 2, SOON_S, "both")
        await until(lambda: admin.counts(f"{queue_name}.dlq").messages == 4, SOON_S, "the dead letter")
    assert sorted(message.body for message in admin.drain(f"{queue_name}.dlq")) == [b"bad", b"good", b"good", b"good"]


async def _nowait(publisher: Publisher, body: str, routing_key: str) -> Receipt:
    return publisher.publish_nowait(body, routing_key=routing_key)


async def test_handler_without_a_context_is_held_to_its_outputs_too(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    publishers: list[Publisher] = []

    @handlers.consume(queue_name, retry=None)
    async def relay(body: bytes) -> None:
        publishers[0].publish_nowait(body, routing_key=f"{queue_name}.missing")

    async with running(broker_url, handlers) as worker:
        publishers.append(worker.service.parts.publisher)
        await worker.settle_one(admin, queue_name, Outcome.REJECT)


async def test_background_publishes_of_a_finished_handler_are_nobody_s(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()
    background: list[asyncio.Task[None]] = []
    published = 0

    @handlers.consume(queue_name, retry=None)
    async def leave_behind(body: bytes, ctx: Context) -> None:
        async def publish_for_ever() -> None:
            nonlocal published
            while True:
                receipts = [ctx.publisher.publish_nowait(b"tick", routing_key=output) for _ in range(50)]
                published += 50
                await receipts[-1]

        background.append(asyncio.create_task(publish_for_ever()))
        await asyncio.sleep(0.01)

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)
        await until(lambda: published > 3000, SOON_S, "more")
        background[0].cancel()
        gc.collect()
        assert sum(isinstance(held, Receipt) for held in gc.get_objects()) < 1000


# ---- step 6 of the drain


async def test_drain_waits_for_what_a_background_task_published(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    async with proxy_to(broker_url) as proxy:
        async with running(proxy.url(broker_url), _idle(queue_name), publisher=PATIENT) as worker:
            await worker.service.parts.publisher.publish(b"first", routing_key=output)
            withheld = Withheld(proxy)
            receipt = worker.service.parts.publisher.publish_nowait(b"last", routing_key=output)
            worker.service.request_stop()
            await until(lambda: len(withheld), SOON_S, "the confirm")
            await asyncio.sleep(0.2)  # for what must not happen
            assert worker.service.state is WorkerState.DRAINING
            withheld.release()
        assert receipt.result()
    assert [message.body for message in admin.drain(output)] == [b"first", b"last"]


async def test_drain_says_how_many_publishes_have_no_outcome(
    broker_url: str, queue_name: str, output: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_to(broker_url) as proxy:
        started_at = time.monotonic()
        async with running(proxy.url(broker_url), _idle(queue_name), drain_timeout_s=0.2, publisher=PATIENT) as worker:
            Withheld(proxy)
            receipts = [worker.service.parts.publisher.publish_nowait(b"", routing_key=output) for _ in range(3)]
        assert time.monotonic() - started_at < SOON_S
    assert events(caplog, "publisher_closed_early", in_flight=3)
    assert {type(receipt.exception()) for receipt in receipts} == {PublishUnconfirmed}


async def test_drain_ends_although_background_tasks_go_on_publishing(
    broker_url: str, queue_name: str, output: str
) -> None:
    async with running(broker_url, _idle(queue_name)) as worker:
        publisher = worker.service.parts.publisher
        background = [asyncio.create_task(_publish_for_ever(publisher, output)) for _ in range(20)]
        await until(lambda: publisher.stats.tasks_processed > 100, SOON_S, "some")
        asked_at = time.monotonic()
    assert time.monotonic() - asked_at < 15, "far less than the drain timeout of 30 s"
    ends = await asyncio.gather(*background, return_exceptions=True)
    assert {type(end) for end in ends} <= {PublishUnconfirmed, PublishOverflow}


async def _publish_for_ever(publisher: Publisher, output: str) -> None:
    while True:
        await publisher.publish(b"tick", routing_key=output)


def _idle(queue: str) -> Handlers:
    handlers = Handlers()

    @handlers.consume(queue)
    async def never(body: bytes) -> None:
        raise AssertionError("nothing is published to this queue")

    return handlers
