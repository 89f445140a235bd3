"""The data plane on a socket: what ends a connection, who is told, and what aiormq gets to see."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pamqp import commands
from pamqp import frame as frames
from yarl import URL

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.transport import DataPlane, DataPlaneFactory
from mxworker.amqp.protocol.frames import DEFAULT_FRAME_MAX
from mxworker.amqp.protocol.reader import RawDelivery
from mxworker.errors import ChannelLost, ConnectionLost, ProtocolViolation
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import HEARTBEAT, START, FakeBroker, Peer, delivery
from tests.loop.loops import on_both_loops
from tests.rabbit.ports import free_port

pytestmark = pytest.mark.usefixtures("log_as_in_production")

SOON_S = 60.0  # generous: the machine may be busy, but what must come comes at once
CAP = 1000


class Sink:
    """Notes what a channel is told."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.ends: list[ChannelLost | ConnectionLost] = []

    def on_deliveries(self, deliveries: list[RawDelivery]) -> None:
        self.bodies += [body for *_, body in deliveries]

    def room_bytes(self) -> int:
        return sys.maxsize

    def takes(self, size_bytes: int) -> bool:
        return True

    def on_too_large(self, tag: int, size_bytes: int, properties: bytes) -> None:
        raise AssertionError(tag)

    def on_unread(self, tag: int, size_bytes: int) -> None:
        raise AssertionError

    def on_get(self, tag: int | None) -> None:
        raise AssertionError(tag)

    def on_cancel(self) -> None:
        raise AssertionError("no cancel was sent")

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        self.ends.append(error)


class RecordingTransport(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.is_aborted = True


def lone_plane() -> tuple[DataPlane, asyncio.StreamReader, RecordingTransport]:
    """Return a plane without a socket, past connection.start, with the reader that stands for aiormq."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**40, loop=loop)
    plane = DataPlane(reader, loop, CAP)
    transport = RecordingTransport()
    plane.connection_made(transport)
    plane.data_received(frames.marshal(START, 0))
    return plane, reader, transport


@asynccontextmanager
async def connected(
    script: Callable[[Peer], object], heartbeat_s: int = 10
) -> AsyncIterator[tuple[BrokerConnection, Peer]]:
    """Connect to a broker that runs `script` on the peer after the handshake."""

    async def after_handshake(peer: Peer) -> None:
        await peer.handshake()
        script(peer)
        await peer.serve()

    async with FakeBroker(after_handshake, heartbeat_s) as broker:
        connection = await BrokerConnection.open(broker.url, "test", asyncio.get_running_loop().time() + SOON_S)
        try:
            yield connection, broker.peers[0]
        finally:
            await connection.close()


async def loss(connection: BrokerConnection, within_s: float = SOON_S) -> ConnectionLost:
    async with asyncio.timeout(within_s):
        return await asyncio.shield(connection.plane.lost)


def nothing(_: Peer) -> None:
    """Let the script do nothing special."""


# ---- what ends a connection

GARBAGE = {
    "garbage": b"garbage!",
    "protocol header": b"AMQP\x00\x00\x09\x01",
    "wrong end octet": struct.pack(">BHI", 1, 0, 4) + b"\x00\x0a\x00\x1e" + b"\x00",
    "oversized frame": struct.pack(">BHI", 3, 1, DEFAULT_FRAME_MAX) + b"x",
    "size of 4 GiB": struct.pack(">BHI", 3, 0, 2**32 - 1) + b"x",
    "body out of nowhere": struct.pack(">BHI", 3, 1, 4) + b"body\xce",
}


@pytest.mark.parametrize("what", GARBAGE)
@on_both_loops
async def test_garbage_ends_the_connection_and_every_channel_is_told_once(what: str) -> None:
    async with connected(nothing) as (connection, peer):
        sinks = [Sink(), Sink()]
        for number, sink in enumerate(sinks, start=1):
            connection.plane.register(number, sink)
        peer.write(delivery(1, b"good") + GARBAGE[what] + delivery(2, b"never seen"))
        error = await loss(connection)
        assert isinstance(error, ProtocolViolation)
        assert sinks[0].bodies == [b"good"]
        assert [sink.ends for sink in sinks] == [[error], [error]]
    assert [sink.ends for sink in sinks] == [[error], [error]], "closing tells nobody again"


@on_both_loops
async def test_end_of_the_socket_is_a_lost_connection() -> None:
    for end in (Peer.close, Peer.hang_up):
        async with connected(nothing) as (connection, peer):
            sink = Sink()
            connection.plane.register(1, sink)
            end(peer)
            error = await loss(connection)
            assert type(error) is ConnectionLost
            assert sink.ends == [error]


@on_both_loops
async def test_connection_close_is_told_with_its_reason() -> None:
    async with connected(nothing) as (connection, peer):
        peer.send(commands.Connection.Close(320, "CONNECTION_FORCED - broker shuts down", 0, 0))
        error = await loss(connection)
        assert str(error) == "the broker closed the connection: 320 CONNECTION_FORCED - broker shuts down"


@on_both_loops
async def test_channel_that_ended_before_is_not_told_of_the_connection() -> None:
    async with connected(nothing) as (connection, peer):
        sink = Sink()
        connection.plane.register(1, sink)
        peer.send(commands.Channel.Close(406, "PRECONDITION_FAILED - so", 60, 80), 1)
        await until(lambda: sink.ends, SOON_S)
        peer.hang_up()
        await loss(connection)
        assert len(sink.ends) == 1
        assert isinstance(sink.ends[0], ChannelLost)
        assert sink.ends[0].code == 406


@on_both_loops
async def test_channel_registered_after_the_end_is_told_at_once() -> None:
    async with connected(nothing) as (connection, peer):
        peer.hang_up()
        error = await loss(connection)
        sink = Sink()
        connection.plane.register(1, sink)
        assert sink.ends == [error]
        connection.plane.write(b"dropped")
        connection.plane.abort(ConnectionLost("again"))


# ---- silence


@on_both_loops
async def test_silent_peer_is_given_up_after_two_heartbeats() -> None:
    opened_at = time.monotonic()
    async with connected(nothing, heartbeat_s=1) as (connection, _):
        error = await loss(connection)
        silence_s = time.monotonic() - opened_at
        assert "silent" in str(error)
        assert 1.5 < silence_s < 2 * 1 + 15


class SteppedLoop:
    """The running loop, but with a clock and timers that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._loop = asyncio.get_running_loop()
        self._timers: list[tuple[float, Callable[..., None], tuple[object, ...]]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        self._timers.append((when, callback, arguments))
        return asyncio.TimerHandle(when, callback, arguments, self._loop)

    def advance(self, until: float) -> None:
        """Let the time pass, in order, running each timer when it is due."""
        while (due := min(self._timers, key=_when, default=None)) and due[0] <= until:
            self._timers.remove(due)
            self.now = due[0]
            due[1](*due[2])
        self.now = until

    def oversleep(self, until: float) -> None:
        """Let the time pass as a blocked loop does: what was due meanwhile runs at the end, once."""
        self.now = until
        due, self._timers = self._timers, []
        for _, callback, arguments in due:
            callback(*arguments)


def _when(timer: tuple[float, Callable[..., None], tuple[object, ...]]) -> float:
    return timer[0]


def stepped_plane() -> tuple[DataPlane, SteppedLoop, RecordingTransport]:
    """Return a lone plane that watches a peer with a heartbeat of 10 s, and its clock."""
    loop = SteppedLoop()
    plane = DataPlane(asyncio.StreamReader(limit=2**40), loop, CAP)  # type: ignore[arg-type]  # a loop in all it needs
    transport = RecordingTransport()
    plane.connection_made(transport)
    plane.data_received(frames.marshal(START, 0))
    plane.watch_peer(10.0)
    return plane, loop, transport


@pytest.mark.parametrize("heard_s_after", [0.0, 0.1, 2.5, 4.9, 5.0, 7.3, 9.99])
async def test_silence_is_noticed_when_it_is_complete_and_not_before(heard_s_after: float) -> None:
    plane, loop, transport = stepped_plane()
    loop.advance(1000 + heard_s_after)
    plane.data_received(HEARTBEAT)
    loop.advance(1000 + heard_s_after + 19.99)
    assert not transport.is_aborted
    loop.advance(1000 + heard_s_after + 20.2)
    assert transport.is_aborted


async def test_overslept_look_is_not_believed_and_the_next_one_is() -> None:
    plane, loop, transport = stepped_plane()
    for _ in range(3):
        loop.oversleep(loop.now + 30)
        assert not transport.is_aborted
        plane.data_received(HEARTBEAT)  # had been waiting in the socket
    loop.oversleep(loop.now + 30)
    loop.advance(loop.now + 5)
    assert transport.is_aborted


@on_both_loops
async def test_peer_that_only_sends_heartbeats_is_alive() -> None:
    async with connected(nothing, heartbeat_s=1) as (connection, peer):
        ends_at = time.monotonic() + 4
        while time.monotonic() < ends_at:
            peer.write(HEARTBEAT)
            await asyncio.sleep(0.3)
        assert not connection.plane.lost.done()


@on_both_loops
async def test_blocked_loop_with_bytes_waiting_is_no_silence() -> None:
    async with connected(nothing, heartbeat_s=1) as (connection, peer):
        for _ in range(2):
            peer.write(HEARTBEAT)  # reaches the kernel now, and waits there
            time.sleep(2.6)  # noqa: ASYNC251  the block is what is tested
            await asyncio.sleep(0.3)
            assert not connection.plane.lost.done()


# ---- what aiormq sees


async def test_busy_plane_feeds_a_heartbeat_about_once_a_second() -> None:
    plane, reader, _ = lone_plane()
    await reader.read(65536)
    plane.register(1, Sink())
    began_at = time.monotonic()
    plane.watch_peer(10.0)
    tag = 0
    is_over = False
    while not is_over:
        is_over = time.monotonic() > began_at + 2.5
        tag += 1
        plane.data_received(delivery(tag, b"body"))
        await asyncio.sleep(0.01)
    lasted_s = time.monotonic() - began_at
    reader.feed_eof()
    fed = await reader.read()
    assert fed == HEARTBEAT * (len(fed) // len(HEARTBEAT))
    assert 1 <= len(fed) // len(HEARTBEAT) <= lasted_s


@on_both_loops
async def test_no_heartbeat_is_fed_during_the_handshake() -> None:
    """aiormq takes a heartbeat for the answer to what it sent last, and gives up."""

    async def slowly(peer: Peer) -> None:
        await peer.greeting()
        await asyncio.sleep(1.3)
        peer.send(START)
        await peer.expect(commands.Connection.StartOk)
        await asyncio.sleep(1.3)
        peer.send(commands.Connection.Tune(2047, 131_072, 60))
        await peer.expect(commands.Connection.TuneOk)
        await peer.expect(commands.Connection.Open)
        await asyncio.sleep(1.3)
        peer.send(commands.Connection.OpenOk())
        await peer.serve()

    async with FakeBroker(slowly) as broker:
        connection = await BrokerConnection.open(broker.url, "test", asyncio.get_running_loop().time() + 60)
        await connection.close()


async def test_only_whole_frames_are_passed_on() -> None:
    plane, reader, _ = lone_plane()
    await reader.read(65536)
    passed = frames.marshal(commands.Basic.QosOk(), 2)
    for at in range(len(passed)):
        assert not reader._buffer  # type: ignore[attr-defined]  # what aiormq could read now
        plane.data_received(passed[at : at + 1])
    assert await reader.read(65536) == passed


@on_both_loops
async def test_reading_is_never_paused() -> None:
    """A pause would hide deliveries behind what aiormq has not read yet."""

    async def script(peer: Peer) -> None:
        peer.send(START)
        peer.write(frames.marshal(commands.Connection.Blocked("x" * 200), 0) * 20_000 + delivery(1, b"behind it"))

    async with FakeBroker(script) as broker:
        factory = DataPlaneFactory(CAP, 10)
        _, writer = await factory.create(URL(broker.url.dsn), ssl_context_provider=None)
        assert factory.plane is not None
        sink = Sink()
        factory.plane.register(1, sink)
        await until(lambda: sink.bodies, SOON_S)
        writer.close()


async def test_bytes_after_a_violation_are_ignored() -> None:
    plane, reader, _ = lone_plane()
    sink = Sink()
    plane.register(1, sink)
    plane.data_received(b"garbage!")
    plane.data_received(delivery(1, b"late"))
    assert sink.bodies == []
    assert await reader.read(65536) == frames.marshal(START, 0)


# ---- writing


async def test_writes_of_one_turn_are_joined() -> None:
    plane, _, transport = lone_plane()
    plane.write_soon(lambda: b"one ")
    plane.write_soon(lambda: b"two ")
    plane.write_soon(lambda: b"three")
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"one two three"]
    await asyncio.sleep(0)
    assert len(transport.writes) == 1


async def test_what_is_asked_for_while_writing_is_written_in_the_next_turn() -> None:
    plane, _, transport = lone_plane()

    def take() -> bytes:
        plane.write_soon(lambda: b"second")
        return b"first"

    plane.write_soon(take)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.writes == [b"first", b"second"]


async def test_nothing_is_written_after_the_end() -> None:
    plane, _, transport = lone_plane()
    plane.write_soon(lambda: b"too late")
    plane.connection_lost(None)
    await asyncio.sleep(0)
    plane.write(b"too late")
    assert transport.writes == []


# ---- the factory


@on_both_loops
async def test_kernel_gives_up_as_early_as_the_heartbeat() -> None:
    async with connected(nothing, heartbeat_s=7) as (connection, _):
        transport = connection.plane._wire
        assert transport is not None
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 14_000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@on_both_loops
async def test_refused_connection_says_so() -> None:
    port = free_port()
    with pytest.raises(ConnectionLost, match="cannot connect: connection refused"):
        await DataPlaneFactory(CAP, 10).create(URL(f"amqp://127.0.0.1:{port}/"), ssl_context_provider=None)
