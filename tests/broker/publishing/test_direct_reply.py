"""Answers by direct reply-to, and what else is published without being mandatory, on a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from mxworker import Publisher
from mxworker.errors import EncodeError, Unroutable
from tests.harness.service import Service, mxworker_run, write_app
from tests.rabbit.client import Client

SOON_S = 60.0
KINDS = ("publish", "nowait", "many", "thread", "cpu", "forward", "batch")

APP = """
    import os

    from mxworker import Context, Handlers

    handlers = Handlers()
    queue = os.environ["QUEUE"]


    def reply_to(ctx: Context) -> str:
        return ctx.delivery.properties.reply_to


    @handlers.consume(queue + ".publish")
    async def publish(body: bytes, ctx: Context) -> None:
        confirmed = await ctx.publisher.publish(body, routing_key=reply_to(ctx))
        assert confirmed.may_be_unrouted


    @handlers.consume(queue + ".nowait")
    async def nowait(body: bytes, ctx: Context) -> None:
        ctx.publisher.publish_nowait(body, routing_key=reply_to(ctx))


    @handlers.consume(queue + ".many")
    async def many(body: bytes, ctx: Context) -> None:
        (outcome,) = await ctx.publisher.publish_many([body], routing_key=reply_to(ctx))
        assert outcome.may_be_unrouted


    @handlers.consume(queue + ".thread")
    def thread(body: bytes, ctx: Context) -> None:
        assert ctx.publisher.publish_sync(body, routing_key=reply_to(ctx)).may_be_unrouted


    @handlers.consume(queue + ".cpu", cpu=True)
    def cpu(body: bytes, ctx: Context) -> None:
        assert ctx.publisher.publish_sync(body, routing_key=reply_to(ctx)).may_be_unrouted


    @handlers.consume(queue + ".forward")
    async def forward(body: bytes, ctx: Context) -> None:
        confirmed = await ctx.publisher.publish(body, routing_key=queue + ".publish", reply_to=reply_to(ctx))
        assert not confirmed.may_be_unrouted


    @handlers.consume_batch(queue + ".batch", wait=0.01)
    async def batch(bodies: list[bytes], ctx: Context) -> None:
        for body, delivery in zip(bodies, ctx.deliveries):
            await ctx.publisher.publish(body, routing_key=delivery.properties.reply_to)
"""


class Requester:
    """A plain client that asks, and takes its answers by direct reply-to."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(self, message: AbstractIncomingMessage) -> None:
        await self.answers.put(message.body)

    async def ask(self, queue: str, body: bytes) -> None:
        request = aio_pika.Message(body, reply_to="amq.rabbitmq.reply-to")
        await self._channel.default_exchange.publish(request, routing_key=queue)


@asynccontextmanager
async def requester(url: str) -> AsyncIterator[Requester]:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        made = Requester(channel)
        pseudo_queue = await channel.get_queue("amq.rabbitmq.reply-to")
        await pseudo_queue.consume(made.take, no_ack=True)
        yield made


@pytest.fixture
def exchange(admin: Client) -> Iterator[str]:
    """An exchange to which nothing is bound."""
    name = f"exchange-{uuid.uuid4().hex[:12]}"
    admin.declare_exchange(name)
    yield name
    admin.delete_exchange(name)


async def test_request_is_answered_once_by_every_kind_of_handler(
    broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name}
    command = mxworker_run(write_app(tmp_path, APP), "--workers=1", app_dir=tmp_path)
    try:
        with Service(command, tmp_path, env=env) as service:
            await asyncio.to_thread(service.wait_ready)
            async with requester(broker_url) as client:
                for kind in KINDS:
                    await client.ask(f"{queue_name}.{kind}", kind.encode())
                answers = [await asyncio.wait_for(client.answers.get(), SOON_S) for _ in KINDS]
                assert sorted(answers) == sorted(kind.encode() for kind in KINDS)
            await asyncio.to_thread(service.stop)  # what had failed would have been told by now
            assert f"exit code 0: {len(KINDS) + 1} acked" in service.log_text()
            assert "acked, " not in service.log_text(), "another outcome"
            assert client.answers.empty()
    finally:
        for kind in KINDS:
            name = f"{queue_name}.{kind}"
            for beside in ("", ".dlq", ".retry.1000", ".retry.5000", ".retry.25000"):
                admin.delete(f"{name}{beside}")


async def test_answer_to_somebody_who_has_left_says_that_it_may_be_nowhere(broker_url: str, queue_name: str) -> None:
    async with Publisher.connect(broker_url) as publisher:
        confirmed = await publisher.publish(b"late", routing_key="amq.rabbitmq.reply-to.g2dkABByYWJiaXRAbG9jYWxob3N0")
        assert confirmed.may_be_unrouted
        with pytest.raises(Unroutable):
            await publisher.publish(b"x", routing_key=f"{queue_name}.amq.rabbitmq.reply-to.x")


async def test_publish_that_is_not_mandatory_is_confirmed_and_says_so(
    broker_url: str, queue_name: str, exchange: str, admin: Client
) -> None:
    admin.declare(queue_name)
    async with Publisher.connect(broker_url, channels=1) as publisher:
        route = {"exchange": exchange, "routing_key": "k"}
        for _ in range(2):  # the second time the frames of this route are known, for each of the two ways
            optional = await publisher.publish(b"x", mandatory=False, **route)
            assert optional.may_be_unrouted
            with pytest.raises(Unroutable):
                await publisher.publish(b"x", **route)
        receipt = publisher.publish_nowait(b"x", mandatory=False, **route)
        assert (await receipt).may_be_unrouted
        assert receipt.result().may_be_unrouted
        outcomes = await publisher.publish_many([b"x"] * 3, mandatory=False, **route)
        assert all(outcome.may_be_unrouted for outcome in outcomes)
        assert (await asyncio.to_thread(publisher.publish_sync, b"x", mandatory=False, **route)).may_be_unrouted
        assert not (await publisher.publish(b"x", routing_key=queue_name)).may_be_unrouted
        missing = {"exchange": f"{exchange}.missing", "routing_key": "k"}
        with pytest.raises(Unroutable):
            await publisher.publish(b"x", mandatory=False, **missing)
        with pytest.raises(EncodeError, match="mandatory must be True or False, not 'no'"):
            await publisher.publish(b"x", mandatory="no", **route)  # type: ignore[arg-type]
