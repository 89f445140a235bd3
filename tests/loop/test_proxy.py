"""The fault proxy does to a connection exactly what a test asked for, and nothing when nothing was asked."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.faults import (
    TO_BROKER,
    TO_CLIENT,
    Arrival,
    How,
    Pace,
    after,
    before,
    damage_end,
    damage_kind,
    oversize,
    replace,
    truncate,
)
from tests.harness.frames import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_PUBLISH,
    BASIC_RETURN,
    BEAT,
    BODY,
    HEADER,
    HEARTBEAT,
    METHOD,
    RAW,
    Frame,
    FrameSplitter,
    MethodId,
    encode,
)
from tests.harness.proxy import Proxy
from tests.harness.waiting import until, wait_until

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
BEAT_FRAME = encode(BEAT, 0, b"")


def method(what: MethodId, channel: int = 1, arguments: bytes = b"") -> bytes:
    return encode(METHOD, channel, struct.pack(">HH", *what) + arguments)


def content(what: MethodId, channel: int, body: bytes) -> bytes:
    return method(what, channel) + encode(HEADER, channel, b"properties") + encode(BODY, channel, body)


class Echo:
    """A server that sends back what it gets, or nothing, and remembers how its connections went."""

    def __init__(self, answers: bool = True) -> None:
        self.answers = answers
        self.received = bytearray()
        self.chunks: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.ends: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                self.received += data
                self.chunks.append(len(data))
                if self.answers:
                    writer.write(data)
                    await writer.drain()
            self.ends.append("FIN")
        except ConnectionResetError:
            self.ends.append("RST")
        finally:
            writer.close()

    async def __aenter__(self) -> Echo:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *ignored: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await until(lambda: len(self.ends) == len(self.writers))


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with Echo() as echo:
        yield echo


@pytest.fixture
async def sink() -> AsyncIterator[Echo]:
    async with Echo(answers=False) as sink:
        yield sink


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


class Client:
    """A connection to the proxy that wants every wait to end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: Proxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(0.1):
                return not await self.reader.read(1)
        except TimeoutError:
            return True


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = await Client.connect(proxy)
    yield client
    client.writer.transport.abort()


async def test_a_healthy_proxy_passes_every_byte_both_ways(client: Client, echo: Echo) -> None:
    data = random.Random(1).randbytes(1_000_000)
    asyncio.get_running_loop().call_soon(client.writer.write, data)
    assert await client.receive(len(data)) == data
    assert bytes(echo.received) == data


async def test_the_end_of_a_client_reaches_the_server_and_what_was_under_way_comes_back(
    proxy: Proxy, client: Client, echo: Echo
) -> None:
    await client.send(PROTOCOL_HEADER + BEAT_FRAME[:3])  # half a frame at the end is passed on too
    client.writer.write_eof()
    assert await client.rest() == PROTOCOL_HEADER + BEAT_FRAME[:3]
    await until(lambda: echo.ends == ["FIN"])
    await until(lambda: proxy.open_connections == 0)


async def test_the_reset_of_a_client_reaches_the_server_as_a_reset(client: Client, echo: Echo) -> None:
    await client.send(b"x")
    await client.receive(1)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    await until(lambda: echo.ends == ["RST"])


async def test_cut_by_rst_resets_both_peers(proxy: Proxy, client: Client, echo: Echo) -> None:
    await client.send(b"x")
    await client.receive(1)
    assert proxy.cut(How.RST) == 1
    assert proxy.open_connections == 0
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await until(lambda: echo.ends == ["RST"])


async def test_cut_by_fin_ends_both_peers_without_a_reset(proxy: Proxy, client: Client, echo: Echo) -> None:
    await client.send(b"x")
    await client.receive(1)
    proxy.cut(How.FIN)
    assert await client.rest() == b""
    await until(lambda: echo.ends == ["FIN"])
    await client.send(b"into the void")
    assert bytes(echo.received) == b"x"


async def test_cut_reaches_a_connection_that_was_accepted_a_moment_ago(proxy: Proxy) -> None:
    client = await Client.connect(proxy)
    await until(lambda: len(proxy.attempts) == 1)
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_new_connection_works_after_a_cut(proxy: Proxy, client: Client) -> None:
    await client.send(b"x")
    await client.receive(1)
    proxy.cut()
    second = await Client.connect(proxy)
    await second.send(b"again")
    assert await second.receive(5) == b"again"
    second.writer.close()


@pytest.mark.parametrize("seed", range(8))
async def test_cut_after_stops_at_exactly_that_byte_to_the_broker(sink: Echo, seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(content(BASIC_PUBLISH, 1, rng.randbytes(100)) for _ in range(100))
    offset = rng.randrange(len(data))
    async with Proxy("127.0.0.1", sink.port) as proxy:
        cut = proxy.cut_after(offset, TO_BROKER)
        client = await Client.connect(proxy)
        await client.send(data)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: sink.ends == ["RST"])
        assert bytes(sink.received) == data[:offset]
        assert cut.happened
        assert proxy.passed_bytes(TO_BROKER) == offset


async def test_cut_after_stops_at_exactly_that_byte_to_the_client(proxy: Proxy, client: Client) -> None:
    await client.send(b"before")
    assert await client.receive(6) == b"before"
    proxy.cut_after(5, TO_CLIENT, How.FIN)
    await client.send(b"after it")
    assert await client.rest() == b"after"


async def test_cut_after_counts_all_connections_together_and_cuts_all(proxy: Proxy, client: Client) -> None:
    other = await Client.connect(proxy)
    proxy.cut_after(10, TO_BROKER)
    for each in (client, other, client):
        await each.send(b"12345")
        if proxy.open_connections:
            await until(lambda: proxy.passed_bytes(TO_BROKER) % 5 == 0)
    for each in (client, other):
        with pytest.raises(ConnectionResetError):
            await each.rest()
    assert proxy.passed_bytes(TO_BROKER) == 10


async def test_refused_connections_are_refused_and_the_port_comes_back(proxy: Proxy, client: Client) -> None:
    await client.send(b"x")
    await client.receive(1)
    proxy.new_connections(Arrival.REFUSE)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(proxy)
    await client.send(b"y")  # the open one goes on
    assert await client.receive(1) == b"y"
    proxy.heal()
    second = await Client.connect(proxy)
    await second.send(b"z")
    assert await second.receive(1) == b"z"
    second.writer.close()


async def test_reset_arrivals_are_counted_and_reset(proxy: Proxy) -> None:
    proxy.new_connections(Arrival.RESET)
    begun_at = time.monotonic()
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            await (await Client.connect(proxy)).rest()
    assert len(proxy.attempts) == 3
    assert begun_at <= proxy.attempts[0] <= proxy.attempts[2] <= time.monotonic()
    assert proxy.open_connections == 0


async def test_a_mute_arrival_is_accepted_and_never_answered(proxy: Proxy, echo: Echo) -> None:
    proxy.new_connections(Arrival.MUTE)
    client = await Client.connect(proxy)
    await client.send(PROTOCOL_HEADER)
    assert await client.hears_nothing()
    assert not echo.writers
    assert proxy.open_connections == 1
    proxy.cut(How.FIN)
    assert await client.rest() == b""


async def test_a_broker_that_is_down_resets_the_client(unused_port: int) -> None:
    async with Proxy("127.0.0.1", unused_port) as proxy:
        client = await Client.connect(proxy)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert len(proxy.attempts) == 1


async def test_a_blackhole_is_silent_and_loses_nothing_when_healed(proxy: Proxy, client: Client, echo: Echo) -> None:
    proxy.blackhole()
    await client.send(b"held")
    assert await client.hears_nothing()
    assert not echo.received
    assert proxy.open_connections == 1
    proxy.heal()
    assert await client.receive(4) == b"held"


async def test_a_blackhole_of_one_direction_leaves_the_other_alone(proxy: Proxy, client: Client, echo: Echo) -> None:
    proxy.blackhole(TO_CLIENT)
    await client.send(b"heard by the broker")
    await until(lambda: bytes(echo.received) == b"heard by the broker")
    assert await client.hears_nothing()


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_the_death_of_a_client_is_not_noticed_through_a_blackhole(
    proxy: Proxy, client: Client, echo: Echo, how: str
) -> None:
    await client.send(b"x")
    await client.receive(1)
    proxy.blackhole()
    if how == "RST":
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    await asyncio.sleep(0.05)
    assert echo.ends == []
    proxy.heal()
    await until(lambda: echo.ends == [how])


async def test_a_connection_made_in_a_blackhole_is_open_and_silent(proxy: Proxy) -> None:
    proxy.blackhole()
    client = await Client.connect(proxy)
    await client.send(PROTOCOL_HEADER)
    assert await client.hears_nothing()
    proxy.heal()
    assert await client.receive(8) == PROTOCOL_HEADER
    client.writer.close()


async def test_a_sliced_stream_arrives_whole_and_in_small_pieces(proxy: Proxy, client: Client, echo: Echo) -> None:
    data = random.Random(2).randbytes(2000)
    proxy.slice(1, 7)
    await client.send(data)
    assert await client.receive(len(data)) == data
    assert len(echo.chunks) > len(data) / 7 / 10  # the kernel may join some, never most


@given(data=st.binary(max_size=500), smallest=st.integers(1, 5), more=st.integers(0, 5), seed=st.integers())
def test_pieces_are_of_the_asked_size_and_join_to_the_whole(data: bytes, smallest: int, more: int, seed: int) -> None:
    pieces = list(Pace(slice_bytes=(smallest, smallest + more)).pieces(data, random.Random(seed)))
    assert b"".join(pieces) == data
    assert all(smallest <= len(piece) <= smallest + more for piece in pieces[:-1])


async def test_a_delayed_byte_is_late(proxy: Proxy, client: Client) -> None:
    proxy.delay(0.1)
    begun_at = time.monotonic()
    await client.send(b"x")
    await client.receive(1)
    assert time.monotonic() - begun_at >= 0.2  # there and back


async def test_a_throttled_direction_is_slow(proxy: Proxy, client: Client) -> None:
    proxy.throttle(10_000)
    begun_at = time.monotonic()
    await client.send(bytes(2000))
    await client.receive(2000)
    assert time.monotonic() - begun_at >= 0.15


async def test_a_dropped_delivery_takes_its_header_and_body_along_and_nothing_else(
    proxy: Proxy, client: Client
) -> None:
    rule = proxy.drop(TO_CLIENT, BASIC_DELIVER)
    kept = [content(BASIC_RETURN, 1, b"kept"), method(BASIC_ACK), content(BASIC_RETURN, 2, b"kept"), BEAT_FRAME]
    gone = content(BASIC_DELIVER, 1, b"gone" * 100)
    for data in (kept[0], gone, kept[1], gone, kept[2], kept[3]):
        await client.send(data)
    expected = b"".join(kept)
    assert await client.receive(len(expected)) == expected
    assert rule.hits == 2
    assert await client.hears_nothing()


async def test_content_of_another_channel_between_is_not_dropped(proxy: Proxy, client: Client) -> None:
    proxy.drop(TO_CLIENT, BASIC_DELIVER)
    gone_method, gone_header, gone_body = (
        method(BASIC_DELIVER, 1),
        encode(HEADER, 1, b"properties"),
        encode(BODY, 1, b"gone"),
    )
    kept = content(BASIC_RETURN, 2, b"kept")
    await client.send(gone_method + kept + gone_header + BEAT_FRAME + gone_body + method(BASIC_ACK, 1))
    expected = kept + BEAT_FRAME + method(BASIC_ACK, 1)
    assert await client.receive(len(expected)) == expected


async def test_a_rule_skips_and_counts(proxy: Proxy, client: Client) -> None:
    rule = proxy.drop(TO_BROKER, BASIC_PUBLISH, skip=1, times=2)
    sent = [content(BASIC_PUBLISH, 1, b"%d" % number) for number in range(5)]
    await client.send(b"".join(sent))
    expected = sent[0] + sent[3] + sent[4]
    assert await client.receive(len(expected)) == expected
    assert rule.hits == 2


async def test_a_removed_rule_does_nothing(proxy: Proxy, client: Client) -> None:
    proxy.remove(proxy.drop(TO_BROKER, HEARTBEAT))
    await client.send(BEAT_FRAME)
    assert await client.receive(len(BEAT_FRAME)) == BEAT_FRAME


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (replace(b"other"), b"other"),
        (before(b"first"), b"first" + BEAT_FRAME),
        (after(b"last"), BEAT_FRAME + b"last"),
        (damage_end, BEAT_FRAME[:-1] + b"\x00"),
        (damage_kind, b"\x7f" + BEAT_FRAME[1:]),
        (oversize, b"\x08\x00\x00\xff\xff\xff\xff\xce"),
        (truncate, BEAT_FRAME[:4]),
    ],
)
async def test_an_action_changes_the_frame_it_is_for(
    proxy: Proxy, client: Client, action: object, expected: bytes
) -> None:
    proxy.on(TO_CLIENT, HEARTBEAT, action)  # type: ignore[arg-type]
    await client.send(method(BASIC_ACK) + BEAT_FRAME)
    assert await client.receive(len(method(BASIC_ACK)) + len(expected)) == method(BASIC_ACK) + expected


async def test_a_rule_without_content_leaves_header_and_body_as_they_are(proxy: Proxy, client: Client) -> None:
    whole = content(BASIC_PUBLISH, 1, b"body")
    headless = whole[len(method(BASIC_PUBLISH)) :]
    proxy.on(TO_BROKER, BASIC_PUBLISH, replace(b""))
    await client.send(whole)
    assert await client.receive(len(headless)) == headless


async def test_a_rule_for_any_frame_can_hit_a_body(proxy: Proxy, client: Client) -> None:
    proxy.on(TO_BROKER, None, replace(b"!"), skip=2, times=1)
    whole = content(BASIC_PUBLISH, 1, b"body")
    await client.send(whole)
    expected = whole[: -len(encode(BODY, 1, b"body"))] + b"!"
    assert await client.receive(len(expected)) == expected


async def test_what_is_injected_stands_between_two_frames(proxy: Proxy, client: Client, echo: Echo) -> None:
    await client.send(PROTOCOL_HEADER)
    await client.receive(8)
    await client.send(method(BASIC_ACK)[:5])
    assert proxy.inject(TO_BROKER, BEAT_FRAME) == 1
    assert await client.receive(len(BEAT_FRAME)) == BEAT_FRAME
    await client.send(method(BASIC_ACK)[5:])
    assert await client.receive(len(method(BASIC_ACK))) == method(BASIC_ACK)


async def test_the_trace_names_frames_and_what_became_of_them(proxy: Proxy, client: Client) -> None:
    proxy.drop(TO_CLIENT, BASIC_DELIVER)
    await client.send(content(BASIC_DELIVER, 7, b"secret body"))
    await client.send(BEAT_FRAME)
    await client.receive(len(BEAT_FRAME))
    trace = proxy.trace()
    assert "broker -> client method Basic.Deliver channel=7 12 bytes dropped" in trace
    assert "broker -> client body Basic.Deliver channel=7 19 bytes dropped" in trace
    assert "heartbeat" in trace
    assert "secret" not in trace


async def test_the_trace_is_printed_when_a_test_fails(echo: Echo, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Proxy("127.0.0.1", echo.port):
            raise ZeroDivisionError
    assert "new connections: PASS" in capsys.readouterr().out


async def test_a_broken_action_fails_the_test(echo: Echo) -> None:
    async def use_it() -> None:
        async with Proxy("127.0.0.1", echo.port) as proxy:
            proxy.on(TO_BROKER, HEARTBEAT, lambda frame: frame.raw[99].to_bytes())
            client = await Client.connect(proxy)
            await client.send(BEAT_FRAME)
            await client.rest()

    with pytest.raises(IndexError):
        await use_it()


async def test_url_keeps_all_but_host_and_port(proxy: Proxy) -> None:
    assert proxy.url() == f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
    assert (
        proxy.url("amqp://me:a%2Fb@rabbit:1/v%2Fh?heartbeat=1")
        == f"amqp://me:a%2Fb@127.0.0.1:{proxy.port}/v%2Fh?heartbeat=1"
    )


FRAMES = st.lists(
    st.one_of(
        st.builds(method, st.sampled_from([BASIC_ACK, BASIC_DELIVER]), st.integers(0, 3), st.binary(max_size=20)),
        st.builds(encode, st.sampled_from([HEADER, BODY, BEAT]), st.integers(0, 3), st.binary(max_size=20)),
    ),
    max_size=10,
)


@given(frames=FRAMES, tail=st.binary(max_size=10), header=st.booleans(), data=st.data())
def test_the_splitter_gives_the_same_frames_however_the_stream_is_cut(
    frames: list[bytes], tail: bytes, header: bool, data: st.DataObject
) -> None:
    stream = PROTOCOL_HEADER * header + b"".join(frames) + tail
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = FrameSplitter()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    assert b"".join(frame.raw for frame in found) + splitter.unfinished == stream
    assert [frame.raw for frame in found][header : header + len(frames)] == frames


def test_bytes_that_are_not_amqp_stay_raw_and_are_not_held_back() -> None:
    splitter = FrameSplitter()
    assert [frame.kind for frame in splitter.feed(BEAT_FRAME + b"HTTP/1.1 200 OK")] == [BEAT, RAW]
    assert [frame.kind for frame in splitter.feed(BEAT_FRAME)] == [RAW]
    assert splitter.unfinished == b""


def test_a_size_field_beyond_reason_is_not_waited_for() -> None:
    splitter = FrameSplitter()
    assert [frame.kind for frame in splitter.feed(b"\x01\x00\x01\xff\xff\xff\xff")] == [RAW]


# From a test without an event loop


class Background:
    """The echo server on a thread of its own."""

    def __enter__(self) -> Background:
        self.echo = Echo()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.echo.__aenter__(), self.loop).result(10)
        return self

    def __exit__(self, *ignored: object) -> None:
        asyncio.run_coroutine_threadsafe(self.echo.__aexit__(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def background_echo() -> Iterator[Echo]:
    with Background() as background:
        yield background.echo


def test_a_synchronous_test_commands_a_proxy_on_its_own_thread(background_echo: Echo) -> None:
    before_threads = threading.active_count()
    with Proxy("127.0.0.1", background_echo.port) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        proxy.blackhole()
        client.sendall(b"y")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        proxy.heal()
        assert client.recv(1) == b"y"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()
        proxy.new_connections(Arrival.REFUSE)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    assert threading.active_count() == before_threads


def test_an_error_in_a_command_reaches_the_thread_that_gave_it(background_echo: Echo) -> None:
    with Proxy("127.0.0.1", background_echo.port) as proxy:
        rule = proxy.drop(TO_BROKER, HEARTBEAT)
        proxy.remove(rule)
        with pytest.raises(ValueError):
            proxy.remove(rule)


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(AssertionError, match="for rain"):
        wait_until(lambda: False, within_s=0.02, what="rain")
    assert wait_until(lambda: 7) == 7


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
