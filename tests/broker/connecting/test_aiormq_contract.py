"""What the data plane assumes of aiormq and aio-pika, one test each: the one that fails names what a new version broke.

The assumptions stand in the docstrings of mxworker/amqp. These tests use the real broker, and the fake one where it has
to misbehave, or where the order of bytes on the wire has to be seen.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from pamqp import commands
from yarl import URL

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.connecting.transport import DataPlaneFactory
from mxworker.amqp.protocol.acks import AckLedger
from mxworker.amqp.protocol.frames import encode_ack, encode_get, encode_give_back
from mxworker.amqp.protocol.reader import RawDelivery
from mxworker.brokers import BrokerUrl
from mxworker.config.bounds import DEFAULT_MAX_BODY_BYTES
from mxworker.errors import ChannelLost, ConnectionLost, TopologyRefused
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import FakeBroker, Peer
from tests.rabbit.client import Client
from tests.rabbit.node import Node
from tests.rabbit.raw import HOSTILE

SOON_S = 60.0
HEARTBEAT_S = 3
DEAD_AFTER_S = 3 * (HEARTBEAT_S + 1)  # aiormq's patience


@pytest.fixture(autouse=True)
def _as_in_production(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the library's log to what `log.set_up` keeps it to."""
    for library in ("aio_pika", "aiormq"):
        caplog.set_level(logging.CRITICAL, library)


class Sink:
    """Notes what a channel is told."""

    def __init__(self, on_deliver: Callable[[int], None] = lambda tag: None) -> None:
        self.bodies: list[bytes] = []
        self.got: list[int | None] = []
        self.cancels = 0
        self.ends: list[ChannelLost | ConnectionLost] = []
        self.has_delivery = asyncio.Event()
        self._then = on_deliver

    def on_deliveries(self, deliveries: list[RawDelivery]) -> None:
        for tag, *_, body in deliveries:
            self.bodies.append(body)
            self.has_delivery.set()
            self._then(tag)

    def room_bytes(self) -> int:
        return sys.maxsize

    def takes(self, size_bytes: int) -> bool:
        return True

    def on_too_large(self, tag: int, size_bytes: int, properties: bytes) -> None:
        raise AssertionError(tag)

    def on_unread(self, tag: int, size_bytes: int) -> None:
        raise AssertionError

    def on_get(self, tag: int | None) -> None:
        self.got.append(tag)

    def on_cancel(self) -> None:
        self.cancels += 1

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        self.ends.append(error)


async def connect(url: BrokerUrl, name: str = "contract") -> BrokerConnection:
    return await BrokerConnection.open(url, name, asyncio.get_running_loop().time() + SOON_S)


@pytest.fixture
def url(broker_url: str) -> BrokerUrl:
    return BrokerUrl.parse(broker_url)


@pytest.fixture
async def connection(url: BrokerUrl) -> AsyncIterator[BrokerConnection]:
    connection = await connect(url)
    yield connection
    await connection.close()


async def underlay_of(channel: AbstractChannel) -> Any:
    """Return aiormq's channel."""
    return await channel.get_underlay_channel()


async def never_called(_: object) -> None:
    raise AssertionError("aiormq called the consumer of a diverted channel")


async def consuming(connection: BrokerConnection, queue: str, sink: Sink, prefetch: int = 0) -> Any:
    """Consume `queue` on a diverted channel and return aiormq's channel."""
    underlay = await underlay_of(await connection.channel())
    connection.plane.register(underlay.number, sink)
    await underlay.basic_qos(prefetch_count=prefetch)
    await underlay.basic_consume(queue, never_called)
    return underlay


# ---- the hook


async def test_transport_factory_is_asked_with_the_url_and_an_ssl_context_provider(url: BrokerUrl) -> None:
    asked: list[tuple[URL, dict[str, Any]]] = []

    class Notes(DataPlaneFactory):
        async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            asked.append((url, kwargs))
            return await super().create(url, **kwargs)

    factory = Notes(DEFAULT_MAX_BODY_BYTES, 10)
    control = aio_pika.Connection(URL(url.dsn))
    control.kwargs["transport_factory"] = factory
    await control.connect()
    try:
        ((asked_url, kwargs),) = asked
        assert (asked_url.scheme, asked_url.host, asked_url.port) == ("amqp", url.host, url.port)
        assert set(kwargs) == {"ssl_context_provider"}
        assert inspect.iscoroutinefunction(kwargs["ssl_context_provider"].get_context)
        assert factory.plane is not None
        assert factory.plane.frames.started
    finally:
        await control.close()


async def test_factory_is_asked_for_amqps_too_and_must_not_answer_in_plain_text(url: BrokerUrl) -> None:
    factory = DataPlaneFactory(DEFAULT_MAX_BODY_BYTES, 10)
    control = aio_pika.Connection(URL(url.dsn).with_scheme("amqps"))
    control.kwargs["transport_factory"] = factory
    with pytest.raises(Exception, match="does not speak TLS"):
        await control.connect()
    assert factory.plane is None
    await control.close()


async def test_server_properties_are_where_we_read_them(connection: BrokerConnection) -> None:
    assert re.fullmatch(r"RabbitMQ \d+\.\d+\.\d+\S*", connection.server)


async def test_client_properties_reach_the_broker(url: BrokerUrl, node: Node) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    connection = await connect(url, name)
    listed = await asyncio.to_thread(node.ctl, "list_connections", "client_properties")
    assert name in listed
    assert '"consumer_cancel_notify",true' in listed
    await connection.close()


async def test_frame_max_of_the_passed_on_tune_is_what_aiormq_agrees_to() -> None:
    async def unlimited(peer: Peer) -> None:
        await peer.handshake(frame_max=0)
        await peer.serve()

    async with FakeBroker(unlimited) as broker:
        connection = await connect(broker.url)
        (tuned,) = [frame for _, frame in broker.peers[0].received if isinstance(frame, commands.Connection.TuneOk)]
        assert tuned.frame_max == connection.plane.frames.frame_max
        await connection.close()


# ---- what aiormq sees, and what it does not


async def test_diverted_deliveries_never_reach_the_consumer_callback(
    connection: BrokerConnection, admin: Client, queue_name: str
) -> None:
    admin.declare(queue_name)
    sink = Sink()
    await consuming(connection, queue_name, sink)
    bodies = [b"%d" % number for number in range(200)]
    admin.publish(queue_name, bodies)
    await until(lambda: len(sink.bodies) == 200, SOON_S)
    assert sink.bodies == bodies
    assert not connection.plane.lost.done()


async def test_deliveries_of_other_channels_still_reach_it(
    connection: BrokerConnection, admin: Client, queue_name: str
) -> None:
    admin.declare(queue_name)
    underlay = await underlay_of(await connection.channel())
    bodies: list[bytes] = []

    async def note(message: Any) -> None:
        bodies.append(message.body)

    await underlay.basic_consume(queue_name, note, no_ack=True)
    admin.publish(queue_name, [b"one", b"two"])
    await until(lambda: bodies == [b"one", b"two"], SOON_S)


async def test_requests_are_answered_on_a_channel_and_a_connection_under_load(
    connection: BrokerConnection, admin: Client, queue_name: str
) -> None:
    admin.declare(queue_name)
    admin.publish(queue_name, [b"x" * 500] * 3000)
    sink = Sink()
    underlay = await consuming(connection, queue_name, sink)
    other = await underlay_of(await connection.channel())
    for _ in range(20):
        await underlay.basic_qos(prefetch_count=0)
        await other.queue_declare(queue_name, passive=True)
    await until(lambda: len(sink.bodies) == 3000, SOON_S)


async def test_hostile_property_still_kills_a_connection_that_aiormq_reads(
    url: BrokerUrl, admin: Client, queue_name: str
) -> None:
    """Why contents are diverted at all. When this fails, aiormq or pamqp has become tolerant: good news."""
    admin.declare(queue_name)
    admin.publish_raw(queue_name, b"body", HOSTILE["timestamp in nanoseconds"])
    connection = await connect(url)
    underlay = await underlay_of(await connection.channel())
    with pytest.raises(ConnectionLost), library_errors(queue_name):
        await underlay.basic_get(queue_name)
    await until(connection.plane.lost.done, SOON_S)
    await connection.close()


async def test_basic_get_answers_of_a_diverted_channel_are_ours(
    connection: BrokerConnection, admin: Client, queue_name: str
) -> None:
    admin.declare(queue_name)
    admin.publish(queue_name, [b"body"])
    underlay = await underlay_of(await connection.channel())
    sink = Sink()
    connection.plane.register(underlay.number, sink)
    connection.plane.write(encode_get(underlay.number, queue_name))
    connection.plane.write(encode_get(underlay.number, queue_name))
    await until(lambda: sink.got == [1, None], SOON_S)
    connection.plane.write(encode_give_back(underlay.number, 1))
    await underlay.basic_qos(prefetch_count=1)  # aiormq has seen nothing of it, and goes on
    await until(lambda: admin.counts(queue_name).messages == 1, SOON_S)


async def test_server_sent_cancel_is_seen_by_us_and_by_aiormq(
    connection: BrokerConnection, admin: Client, queue_name: str
) -> None:
    admin.declare(queue_name)
    sink = Sink()
    underlay = await consuming(connection, queue_name, sink)
    assert len(underlay.consumers) == 1
    admin.delete(queue_name)
    await until(lambda: sink.cancels == 1 and not underlay.consumers, SOON_S)
    await underlay.basic_qos(prefetch_count=1)  # the channel lives on
    assert sink.ends == []


# ---- channels


async def test_number_of_a_closed_channel_is_used_again_and_no_longer_diverted(
    connection: BrokerConnection, admin: Client, queue_name: str
) -> None:
    admin.declare(queue_name)
    channel = await connection.channel()
    number = (await underlay_of(channel)).number
    sink = Sink()
    connection.plane.register(number, sink)
    await channel.close()
    assert len(sink.ends) == 1
    underlay = await underlay_of(await connection.channel())
    assert underlay.number == number
    admin.publish(queue_name, [b"for aiormq"])
    message = await underlay.basic_get(queue_name, no_ack=True)
    assert message.body == b"for aiormq"


async def test_channel_closed_by_the_broker_ends_the_sink_before_the_request_fails(
    connection: BrokerConnection, queue_name: str
) -> None:
    sink = Sink()
    underlay = await underlay_of(await connection.channel())
    connection.plane.register(underlay.number, sink)
    with pytest.raises(TopologyRefused, match="404 NOT_FOUND"), library_errors(queue_name):
        await underlay.basic_consume(queue_name, never_called)
    (end,) = sink.ends
    assert isinstance(end, ChannelLost)
    assert end.code == 404
    assert (await underlay_of(await connection.channel())).number == underlay.number


async def test_closing_a_channel_that_is_gone_already_is_harmless(
    connection: BrokerConnection, queue_name: str
) -> None:
    channel = await connection.channel()
    with pytest.raises(TopologyRefused), library_errors(queue_name):
        await (await underlay_of(channel)).basic_consume(queue_name, never_called)
    async with asyncio.timeout(SOON_S):
        await channel.close()
        await channel.close()


async def test_request_on_a_channel_that_is_gone_is_an_error_and_does_not_hang(
    connection: BrokerConnection, queue_name: str
) -> None:
    channel = await connection.channel()
    underlay = await underlay_of(channel)
    await channel.close()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(ConnectionLost), library_errors(queue_name):
            await underlay.basic_qos(prefetch_count=1)


async def test_cancelled_request_closes_its_channel() -> None:
    """`Subscription.open` relies on it: a consumer that nobody waits for must not go on."""

    async def owes_an_answer(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Basic.Consume)
        await peer.serve()

    async with FakeBroker(owes_an_answer) as broker:
        connection = await connect(broker.url)
        underlay = await underlay_of(await connection.channel())
        asking = asyncio.create_task(underlay.basic_consume("queue", never_called))
        await until(lambda: any(isinstance(f, commands.Basic.Consume) for _, f in broker.peers[0].received), SOON_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: any(isinstance(f, commands.Channel.Close) for _, f in broker.peers[0].received), SOON_S)
        await connection.close()


# ---- writing


async def test_our_writes_overtake_those_of_aiormq() -> None:
    async def decent(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve()

    async with FakeBroker(decent) as broker:
        connection = await connect(broker.url)
        underlay = await underlay_of(await connection.channel())
        asking = asyncio.create_task(underlay.basic_qos(prefetch_count=1))
        await asyncio.sleep(0)
        connection.plane.write(encode_ack(underlay.number, 1, multiple=False))
        await asking
        last = [type(frame) for _, frame in broker.peers[0].received[-2:]]
        assert last == [commands.Basic.Ack, commands.Basic.Qos]
        await connection.close()


async def test_frames_of_both_writers_stay_whole(
    connection: BrokerConnection, admin: Client, queue_name: str, rng: random.Random
) -> None:
    """Thousands of acks of ours between large publishes of aiormq's, on one socket: the broker understands them all."""
    admin.declare(queue_name)
    admin.publish(queue_name, [b"x"] * 2000)
    ledger = AckLedger(0)

    def settle(tag: int) -> None:
        ledger.deliver(tag)
        connection.plane.write_soon(lambda: encode_ack(number, tag, multiple=False))

    number = 2
    sink = Sink(settle)
    publishing = await underlay_of(await connection.channel())
    consumer = await consuming(connection, queue_name, sink, prefetch=50)
    assert consumer.number == number
    for _ in range(50):
        await publishing.basic_publish(rng.randbytes(200_000), routing_key=f"{queue_name}-nowhere", wait=True)
    await until(lambda: len(sink.bodies) == 2000, 30)
    await consumer.basic_qos(prefetch_count=1)
    assert not connection.plane.lost.done()
    await until(lambda: admin.counts(queue_name).messages == 0, SOON_S)


# ---- heartbeats


async def endless_traffic(connection: BrokerConnection, admin: Client, queue: str) -> Sink:
    """Let one message go to and fro for ever, on the data plane alone."""
    admin.declare(queue)
    admin.publish(queue, [b"to and fro"])
    plane = connection.plane

    def again(tag: int) -> None:
        asyncio.get_running_loop().call_later(0.01, plane.write, encode_give_back(number, tag))

    sink = Sink(again)
    number = 1
    assert (await consuming(connection, queue, sink)).number == number
    return sink


async def test_fed_heartbeats_keep_a_busy_connection_alive(url: BrokerUrl, admin: Client, queue_name: str) -> None:
    connection = await connect(replace(url, heartbeat_s=HEARTBEAT_S))
    sink = await endless_traffic(connection, admin, queue_name)
    ends_at = time.monotonic() + DEAD_AFTER_S + 4
    while time.monotonic() < ends_at:
        assert not connection.plane.lost.done()
        await asyncio.sleep(0.1)
    assert len(sink.bodies) > 50
    await connection.channel()
    await connection.close()


async def test_aiormq_declares_a_busy_connection_dead_when_it_is_fed_none(
    url: BrokerUrl, admin: Client, queue_name: str
) -> None:
    """Why they are fed. When this fails, aiormq has found another way to notice life."""
    connection = await connect(replace(url, heartbeat_s=HEARTBEAT_S))
    watch = connection.plane._watch
    assert watch is not None
    watch.cancel()
    connection.plane._watch = None
    sink = await endless_traffic(connection, admin, queue_name)
    await until(connection.plane.lost.done, 3 * DEAD_AFTER_S)
    assert len(sink.bodies) > 50
    assert isinstance(sink.ends[0], ConnectionLost)
    await connection.close()


# ---- how a loss looks


async def test_closing_hands_a_cancellation_to_pending_requests_that_nobody_asked_for() -> None:
    """W1: raw, it looks like a cancelled task; translated, like what it is."""

    async def owes_answers(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Basic.Qos)

    async def ask(underlay: Any) -> None:
        await underlay.basic_qos(prefetch_count=1)

    async def ask_translated(underlay: Any) -> None:
        with library_errors("queue"):
            await underlay.basic_qos(prefetch_count=1)

    async with FakeBroker(owes_answers) as broker:
        connection = await connect(broker.url)
        raw = asyncio.create_task(ask(await underlay_of(await connection.channel())))
        translated = asyncio.create_task(ask_translated(await underlay_of(await connection.channel())))
        await until(lambda: any(isinstance(f, commands.Basic.Qos) for _, f in broker.peers[0].received), SOON_S)
        transport = connection._control.transport
        assert transport is not None
        async with asyncio.timeout(SOON_S):
            await transport.connection.close()
            await asyncio.wait({raw, translated})
        assert raw.cancelled()
        assert raw.cancelling() == 0
        assert isinstance(translated.exception(), ConnectionLost)
        await connection.close()


@pytest.mark.parametrize("end", ["close", "hang_up"])
async def test_every_pending_request_ends_when_the_socket_does(end: str) -> None:
    """W2: with a bare Exception, a RuntimeError or its own class; never not at all."""

    async def ends(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Queue.Declare)
        getattr(peer, end)()

    async def ask(connection: BrokerConnection, channel: AbstractChannel) -> None:
        with library_errors("queue"):
            await (await underlay_of(channel)).queue_declare("queue", passive=True)

    async with FakeBroker(ends) as broker:
        connection = await connect(broker.url)
        channels = [await connection.channel() for _ in range(5)]
        asking = [asyncio.create_task(ask(connection, channel)) for channel in channels]
        async with asyncio.timeout(SOON_S):
            await asyncio.wait(asking)
        assert [type(task.exception()) for task in asking] == [ConnectionLost] * 5
        await connection.close()


async def test_close_handshake_leaves_nothing_unread(
    url: BrokerUrl, admin: Client, queue_name: str, node: Node
) -> None:
    """Bytes left in our socket make its close a reset, which the broker logs as an unexpected one."""
    admin.declare(queue_name)
    admin.publish(queue_name, [b"x" * 1000] * 500)
    name = f"contract-{uuid.uuid4().hex[:8]}"
    for _ in range(5):
        connection = await connect(url, name)
        sink = Sink()
        await consuming(connection, queue_name, sink)
        await sink.has_delivery.wait()
        await connection.close()

    def ends() -> list[str]:
        return [line for line in node.log_text().splitlines() if "closing AMQP connection" in line and name in line]

    await until(lambda: len(ends()) == 5, SOON_S)
    assert [line for line in ends() if "[info]" not in line] == []
