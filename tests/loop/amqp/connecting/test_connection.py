"""One broker connection from its handshake to its end, and the link that keeps one up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pamqp import commands

from mxworker.amqp.connecting.connection import CLOSE_DEADLINE_S, BrokerConnection, Dialler, Link
from mxworker.backoff import RECONNECT, REFUSED
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.errors import BrokerError, ConnectionLost, CredentialsRefused, ProtocolViolation
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import START, FakeBroker, Peer, Script, delivery
from tests.loop.loops import on_both_loops
from tests.rabbit.ports import free_port

pytestmark = pytest.mark.usefixtures("log_as_in_production")

SOON_S = 60.0  # generous: the machine may be busy, but what must come comes at once


async def decent(peer: Peer) -> None:
    """Do what a broker does."""
    await peer.handshake()
    await peer.serve()


async def open_soon(url: BrokerUrl, within_s: float = SOON_S) -> BrokerConnection:
    return await BrokerConnection.open(url, "a name", asyncio.get_running_loop().time() + within_s)


async def failure(script: Script, within_s: float = SOON_S) -> tuple[BrokerError, float]:
    """Return what connecting to a broker that runs `script` ends in, and after how many seconds."""
    async with FakeBroker(script) as broker:
        started_at = time.monotonic()
        with pytest.raises(BrokerError) as caught:
            await open_soon(broker.url, within_s)
        return caught.value, time.monotonic() - started_at


# ---- the handshake


@on_both_loops
async def test_connection_knows_the_broker_and_says_who_it_is() -> None:
    async with FakeBroker(decent) as broker:
        connection = await open_soon(broker.url)
        assert connection.server == "FakeMQ 1.0"
        (start_ok,) = [frame for _, frame in broker.peers[0].received if isinstance(frame, commands.Connection.StartOk)]
        assert (start_ok.client_properties or {})["connection_name"] == "a name"
        await connection.close()


@on_both_loops
async def test_heartbeat_and_frame_max_are_agreed_on() -> None:
    async def unlimited(peer: Peer) -> None:
        await peer.handshake(frame_max=0)
        await peer.serve()

    async with FakeBroker(unlimited, heartbeat_s=7) as broker:
        connection = await open_soon(broker.url)
        (tuned,) = [frame for _, frame in broker.peers[0].received if isinstance(frame, commands.Connection.TuneOk)]
        assert (tuned.frame_max, tuned.heartbeat) == (131_072, 7)
        await connection.close()


async def answer_nothing(peer: Peer) -> None:
    await peer.greeting()


async def stop_after_start(peer: Peer) -> None:
    await peer.greeting()
    peer.send(START)
    await peer.expect(commands.Connection.StartOk)


async def stop_after_tune(peer: Peer) -> None:
    await stop_after_start(peer)
    peer.send(commands.Connection.Tune(2047, 131_072, 60))
    await peer.expect(commands.Connection.TuneOk)
    await peer.expect(commands.Connection.Open)


async def dribble(peer: Peer) -> None:
    await peer.greeting()
    for byte in b"\x01\x00\x00\x00\x00\x01\x00":
        peer.write(bytes([byte]))
        await asyncio.sleep(0.3)


STAGES = {script.__name__: script for script in (answer_nothing, stop_after_start, stop_after_tune)}


@pytest.mark.parametrize("stage", [*STAGES, "dribble"])
@on_both_loops
async def test_broker_that_does_not_answer_is_given_up_at_the_deadline(stage: str) -> None:
    error, took_s = await failure(STAGES.get(stage, dribble), within_s=1.0)
    assert type(error) is ConnectionLost
    assert str(error).startswith("no answer from 127.0.0.1:")
    assert 0.9 < took_s < 1.0 + 15.0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "junk", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", b"\x01\x00\x00\xff\xff\xff\xff\x00"]
)
@on_both_loops
async def test_junk_in_the_handshake_is_a_violation_at_once(stage: str, junk: bytes) -> None:
    async def script(peer: Peer) -> None:
        await STAGES[stage](peer)
        peer.write(junk)

    error, took_s = await failure(script, within_s=150)
    assert isinstance(error, ProtocolViolation)
    assert took_s < SOON_S


@pytest.mark.parametrize("stage", STAGES)
@on_both_loops
async def test_socket_closed_in_the_handshake_is_a_lost_connection_at_once(stage: str) -> None:
    for end in (Peer.close, Peer.hang_up):

        async def script(peer: Peer, end: Callable[[Peer], None] = end) -> None:
            await STAGES[stage](peer)
            end(peer)

        error, took_s = await failure(script, within_s=150)
        assert type(error) is ConnectionLost
        assert took_s < SOON_S


@pytest.mark.parametrize("code", [403, 530])
@on_both_loops
async def test_refusal_is_told_with_the_broker_s_words(code: int) -> None:
    async def script(peer: Peer) -> None:
        await (stop_after_start if code == 403 else stop_after_tune)(peer)
        peer.send(commands.Connection.Close(code, "REFUSED - go away", 0, 0))

    error, took_s = await failure(script, within_s=150)
    assert isinstance(error, CredentialsRefused)
    assert str(error) == f"the broker refused us: {code} REFUSED - go away"
    assert took_s < SOON_S


@on_both_loops
async def test_cancelled_handshake_is_cancelled_and_leaves_no_socket() -> None:
    for stage in STAGES.values():
        async with FakeBroker(stage) as broker:
            opening = asyncio.create_task(open_soon(broker.url, 30))
            await broker.accept(1)
            await asyncio.sleep(0.05)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            async with asyncio.timeout(SOON_S):
                await broker.peers[0].gone()


# ---- its channels and its end


@on_both_loops
async def test_channel_that_is_not_answered_ends_with_the_connection() -> None:
    for end in (Peer.close, Peer.hang_up, lambda peer: peer.write(b"garbage!")):

        async def script(peer: Peer, end: Callable[[Peer], None] = end) -> None:
            await peer.handshake()
            await peer.serve(commands.Channel.Open)
            end(peer)

        async with FakeBroker(script) as broker:
            connection = await open_soon(broker.url)
            async with asyncio.timeout(SOON_S):
                with pytest.raises(ConnectionLost):
                    await connection.channel()
                await connection.close()


@on_both_loops
async def test_close_is_said_and_answered() -> None:
    async with FakeBroker(decent) as broker:
        connection = await open_soon(broker.url)
        await connection.close()
        await connection.close()
        assert connection.plane.lost.done()
        received = broker.peers[0].received
        await until(lambda: isinstance(received[-1][1], commands.Connection.Close), SOON_S, "the broker to see it")


@on_both_loops
async def test_close_that_is_not_answered_is_bounded() -> None:
    async def deaf(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(commands.Connection.Close)

    async with FakeBroker(deaf) as broker:
        connection = await open_soon(broker.url)
        started_at = time.monotonic()
        await connection.close()
        assert time.monotonic() - started_at < CLOSE_DEADLINE_S + 15
        assert connection.plane.lost.done()


@on_both_loops
async def test_close_towards_a_peer_that_stopped_reading_is_bounded() -> None:
    """The library waits for the socket to take its last bytes; only an abort ends that."""
    is_over = asyncio.Event()

    async def stops_reading(peer: Peer) -> None:
        await peer.handshake()
        peer.stop_reading()
        await is_over.wait()

    async with FakeBroker(stops_reading) as broker:
        connection = await open_soon(broker.url)
        connection.plane.write(b"x" * 30_000_000)
        started_at = time.monotonic()
        async with asyncio.timeout(20):
            await connection.close()
        assert time.monotonic() - started_at < CLOSE_DEADLINE_S + 15
        await until(connection.plane.lost.done, SOON_S)
        is_over.set()


# ---- the link


class Least(random.Random):
    """No jitter and no waiting."""

    def uniform(self, a: float, b: float) -> float:
        return min(b, 0.01)


class Most(random.Random):
    """The longest wait there can be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def nobody_cares() -> None:
    """Take the news that the link's error has changed."""


def link_to(*urls: BrokerUrl, rng: random.Random) -> Link:
    return Link(Dialler(Brokers(urls), rng), "test", nobody_cares)


@asynccontextmanager
async def under_way(duty: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run what must go on for as long as the block, and must then end by its cancellation alone, and soon."""
    task = asyncio.create_task(duty)
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=SOON_S)
        assert task.cancelled(), task


@asynccontextmanager
async def running(link: Link) -> AsyncIterator[asyncio.Task[None]]:
    """Run the link; see `under_way`."""
    try:
        async with under_way(link.run()) as task:
            yield task
    finally:
        await link.close()


@on_both_loops
async def test_link_is_up_and_says_why_it_is_not() -> None:
    async with FakeBroker(decent) as broker:
        link = link_to(broker.url, rng=Least())
        assert link.live is None
        async with running(link):
            connection = await link.connection()
            assert link.live is connection
            assert link.last_error is None
            broker.peers[0].hang_up()
            await until(lambda: link.live not in (None, connection), SOON_S)
            assert isinstance(link.last_error, ConnectionLost)


ENDS: dict[str, Callable[[Peer], None]] = {
    "end of file": Peer.close,
    "reset": Peer.hang_up,
    "garbage": lambda peer: peer.write(b"garbage!"),
    "half a frame, then the end": lambda peer: peer.close_after(b"\x01\x00\x00"),
    "connection.close": lambda peer: peer.send(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0)),
    "what pamqp cannot read": lambda peer: peer.write(b"\x01\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff\xce"),
    "silence": lambda peer: None,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_asking", [False, True])
@on_both_loops
async def test_link_survives_every_way_a_connection_ends(end: str, is_asking: bool) -> None:
    """Also while a request is under way, which the library then rejects, cancels or forgets."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        if is_asking:
            await peer.serve(commands.Channel.Open)
        else:
            await asyncio.sleep(0.05)  # long enough to be seen alive
        ENDS[end](peer)
        await peer.gone()

    async with FakeBroker(script, heartbeat_s=1) as broker:
        link = link_to(broker.url, rng=Least())
        async with running(link):
            for _ in range(2 if end == "silence" else 5):
                connection = await link.connection()
                if is_asking:
                    with pytest.raises(ConnectionLost):
                        await connection.channel()
                async with asyncio.timeout(SOON_S):
                    await asyncio.shield(connection.plane.lost)
            await until(lambda: link.live is not None, SOON_S)


async def backs_off(broker: FakeBroker, connections: int) -> None:
    """Connect until there were `connections` to `broker`, each of which it ends; the pauses between them must grow."""
    link = link_to(broker.url, rng=Most())
    async with running(link):
        await until(lambda: len(broker.accepted_at) >= connections, 20)
        gaps_s = [after - before for before, after in zip(broker.accepted_at, broker.accepted_at[1:], strict=False)]
        for attempt, gap_s in enumerate(gaps_s):
            assert gap_s >= RECONNECT.ceiling_s(attempt) - 0.02


@on_both_loops
async def test_failed_attempts_back_off() -> None:
    async def hangs_up(peer: Peer) -> None:
        await peer.greeting()
        peer.hang_up()

    async with FakeBroker(hangs_up) as broker:
        await backs_off(broker, 5)


@on_both_loops
async def test_loss_is_the_first_failure_of_its_outage() -> None:
    async with FakeBroker(lambda peer: _let_the_first_in(peer, broker)) as broker:
        await backs_off(broker, 4)


async def _let_the_first_in(peer: Peer, broker: FakeBroker) -> None:
    if len(broker.peers) == 1:
        await peer.handshake()
    else:
        await peer.greeting()
    peer.hang_up()


@on_both_loops
async def test_connections_that_end_at_once_back_off_too() -> None:
    async def hangs_up(peer: Peer) -> None:
        await peer.handshake()
        peer.hang_up()

    async with FakeBroker(hangs_up) as broker:
        await backs_off(broker, 4)


async def test_refused_credentials_wait_longer() -> None:
    asked: list[float] = []

    class Notes(random.Random):
        def uniform(self, a: float, b: float) -> float:
            asked.append(b)
            return 0.01

    async def refuses(peer: Peer) -> None:
        await stop_after_start(peer)
        peer.send(commands.Connection.Close(403, "ACCESS_REFUSED", 0, 0))

    async with FakeBroker(refuses) as broker:
        link = link_to(broker.url, rng=Notes())
        async with running(link):
            await until(lambda: asked.count(REFUSED.cap_s) >= 3, SOON_S)
            # A wait of 0.01 s may be over before the link begins it; then, and only then, it takes the usual one, too.
            assert asked.count(REFUSED.cap_s) >= len(broker.accepted_at) - 1
        assert isinstance(link.last_error, CredentialsRefused)


@on_both_loops
async def test_link_finds_a_broker_that_comes_later() -> None:
    port = free_port()
    link = link_to(BrokerUrl("127.0.0.1", port), rng=Least())
    async with running(link):
        await until(lambda: link.last_error is not None, SOON_S)
        assert str(link.last_error) == "cannot connect: connection refused"
        async with FakeBroker(decent, port=port):
            async with asyncio.timeout(SOON_S):
                await link.connection()


@pytest.mark.parametrize("phase", [*STAGES, "up", "resting", "saying good-bye"])
@on_both_loops
async def test_cancellation_of_the_link_is_never_swallowed(phase: str) -> None:
    """`running` checks it: the task ends as cancelled, soon, whatever it was doing."""

    async def script(peer: Peer) -> None:
        if phase in STAGES:
            await STAGES[phase](peer)
        elif phase == "up":
            await decent(peer)
        elif phase == "saying good-bye":
            await peer.handshake()
            peer.send(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0))
        else:
            peer.hang_up()

    for delay_s in (0.0, 0.02, 0.1):
        async with FakeBroker(script) as broker, running(link_to(broker.url, rng=Most())):
            await broker.accept(1)
            await asyncio.sleep(delay_s)


@on_both_loops
async def test_cancelled_link_leaves_its_connection_up_until_it_is_closed() -> None:
    """A drain cancels the duties first, and needs the connection to the end."""
    async with FakeBroker(decent) as broker:
        link = link_to(broker.url, rng=Least())
        task = asyncio.create_task(link.run())
        connection = await link.connection()
        task.cancel()
        await asyncio.wait({task})
        assert link.live is connection
        await connection.channel()
        await link.close()
        assert link.live is None


@on_both_loops
async def test_link_leaves_no_tasks_behind() -> None:
    async def ends(peer: Peer) -> None:
        await peer.handshake()
        peer.write(delivery(1, b"to nobody"))
        peer.hang_up()

    async with FakeBroker(ends) as broker:
        before = asyncio.all_tasks()
        link = link_to(broker.url, rng=Least())
        async with running(link):
            await until(lambda: len(broker.peers) >= 20, 20)

        def left() -> set[asyncio.Task[object]]:
            return asyncio.all_tasks() - before - set(broker.tasks)

        await until(lambda: not left(), SOON_S, "the library's tasks to end")
