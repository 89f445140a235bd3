"""Whatever a broker says, and wherever it says it, reaches nobody's terminal but as printable text on one line."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pamqp import commands

from mxworker import Publisher
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError, MxWorkerError
from mxworker.system.log_formats import JsonFormatter, TextFormatter
from tests.harness.hostile_text import HOSTILE, assert_harmless, assert_harmless_json
from tests.harness.repository import REPOSITORY
from tests.harness.waiting import until
from tests.loop.amqp.fake_broker import START, FakeBroker, Peer, Script, answer_to, delivery
from tests.rabbit.raw import raw_properties

SOON_S = 30.0
LONG = HOSTILE + "x" * 50_000


async def close_at_start(peer: Peer) -> None:
    await peer.greeting()
    peer.send(commands.Connection.Close(320, HOSTILE, 0, 0))


async def refuse_credentials(peer: Peer) -> None:
    await peer.start()
    peer.send(commands.Connection.Close(403, HOSTILE, 0, 0))


async def close_at_tune(peer: Peer) -> None:
    await peer.start()
    peer.send(commands.Connection.Tune(2047, 131_072, 60))
    await peer.expect(commands.Connection.TuneOk)
    peer.send(commands.Connection.Close(530, HOSTILE, 0, 0))


async def offer_mechanisms(peer: Peer) -> None:
    await peer.greeting()
    peer.send(commands.Connection.Start(mechanisms=HOSTILE))


async def speak_another_protocol(peer: Peer) -> None:
    await peer.greeting()
    peer.write(HOSTILE.encode())


async def be_no_broker_in_a_frame(peer: Peer) -> None:
    await peer.start()
    peer.send(commands.Connection.OpenOk(HOSTILE))


def assert_bounded(error: BaseException) -> None:
    text = str(error)
    assert_harmless(text)
    assert len(text) < 3000


@pytest.mark.parametrize(
    "script",
    [
        close_at_start,
        refuse_credentials,
        close_at_tune,
        offer_mechanisms,
        speak_another_protocol,
        be_no_broker_in_a_frame,
    ],
)
async def test_handshake_that_fails_is_told_harmlessly(script: Script) -> None:
    async with FakeBroker(script) as broker:
        with pytest.raises(BrokerError) as raised:
            await BrokerConnection.open(broker.url, "test", asyncio.get_running_loop().time() + 5)
    assert_bounded(raised.value)


@asynccontextmanager
async def connected(script: Script) -> AsyncIterator[BrokerConnection]:
    async with FakeBroker(script) as broker:
        connection = await BrokerConnection.open(broker.url, "test", asyncio.get_running_loop().time() + SOON_S)
        try:
            yield connection
        finally:
            await connection.close()


async def introduce_itself(peer: Peer, **said: object) -> None:
    """Shake hands as a broker with what is `said` among its properties."""
    await peer.greeting()
    properties = {**START.server_properties, **said}
    peer.send(commands.Connection.Start(server_properties=properties, mechanisms="PLAIN"))
    await peer.expect(commands.Connection.StartOk)
    peer.send(commands.Connection.Tune(2047, 131_072, 60))
    await peer.expect(commands.Connection.TuneOk)
    await peer.expect(commands.Connection.Open)
    peer.send(commands.Connection.OpenOk())


@pytest.mark.parametrize("said", [HOSTILE, LONG, {"x": [HOSTILE]}, 7])
async def test_product_and_version_are_printable_and_short(said: object) -> None:
    async def script(peer: Peer) -> None:
        await introduce_itself(peer, product=said, version=said)
        await peer.serve()

    async with connected(script) as connection:
        assert_harmless(connection.server)
        assert len(connection.server) < 250


@pytest.mark.parametrize("code", [403, 404, 405, 406, 541])
async def test_channel_that_is_closed_is_told_harmlessly(code: int) -> None:
    async def close_at_declare(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(until=commands.Queue.Declare)
        peer.send(commands.Channel.Close(code, HOSTILE, 50, 10), 1)
        await peer.serve()

    async with connected(close_at_declare) as connection:
        with pytest.raises(BrokerError) as raised:
            await Subscription.open(connection, Queue("orders"), 1, lambda *came: None)
    assert_bounded(raised.value)


@pytest.mark.parametrize(
    "end",
    [
        commands.Channel.Close(406, HOSTILE, 60, 80),
        commands.Basic.Cancel(HOSTILE),
        commands.Connection.Close(320, HOSTILE, 0, 0),
    ],
    ids=lambda end: end.name,
)
async def test_end_of_consuming_is_told_harmlessly(end: commands.Channel.Close) -> None:
    async def end_it(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(until=commands.Basic.Consume)
        peer.send(commands.Basic.ConsumeOk(HOSTILE), 1)
        peer.send(end, 0 if isinstance(end, commands.Connection.Close) else 1)
        await peer.serve()

    async with connected(end_it) as connection:
        subscription = await Subscription.open(connection, Queue("orders", type="classic"), 1, lambda *came: None)
        async with asyncio.timeout(SOON_S):
            assert_bounded(await subscription.lost)


async def test_error_of_the_library_of_any_length_is_bounded() -> None:
    for error in (RuntimeError(LONG), OSError(LONG), ConnectionError(LONG, LONG)):
        with pytest.raises(BrokerError) as raised, library_errors(HOSTILE):
            raise error
        assert_bounded(raised.value)


async def test_reason_of_a_block_and_of_a_return_are_harmless(caplog: pytest.LogCaptureFixture) -> None:
    async def block_and_return(peer: Peer) -> None:
        await peer.handshake()
        await peer.serve(until=commands.Basic.Publish)
        await peer.read()
        await peer.read()
        peer.send(commands.Connection.Blocked(HOSTILE))
        peer.send(commands.Basic.Return(312, HOSTILE, HOSTILE, "nowhere"), 1)
        peer.write(_returned(b"an id"))
        peer.send(commands.Basic.Ack(1), 1)
        await peer.serve()

    caplog.set_level(logging.INFO)
    async with FakeBroker(block_and_return) as broker, Publisher.connect(str(broker.url), channels=1) as publisher:
        with pytest.raises(MxWorkerError) as raised:
            await publisher.publish("body", routing_key="nowhere", message_id="an id")
        await until(lambda: "takes no publishes" in caplog.text, SOON_S, "the line")
    assert_bounded(raised.value)
    for record in caplog.records:
        assert_harmless(TextFormatter().format(record))
        assert_harmless_json(JsonFormatter().format(record))


def _returned(message_id: bytes) -> bytes:
    """Return the content of a returned message of 4 bytes."""
    return delivery(1, b"body", 1, raw_properties(message_id=message_id)).partition(b"\xce")[2]


# ---- the whole service


APP = """
from mxworker import Handlers
handlers = Handlers()
@handlers.consume("orders")
async def order(body: str) -> None:
    raise ValueError(f"no such order {body}")
"""


async def close_at_the_first_declare(peer: Peer) -> None:
    await peer.handshake()
    while True:
        channel, frame = await peer.read()
        if isinstance(frame, commands.Queue.Declare):
            peer.send(commands.Channel.Close(406, f"PRECONDITION_FAILED - {HOSTILE}", 50, 10), channel)
        elif (answer := answer_to(frame)) is not None:
            peer.send(answer, channel)


@asynccontextmanager
async def service(
    broker: FakeBroker, folder: Path, log_format: str, *more: str, app: str = "app"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a service, and end it by force if it has not ended."""
    (folder / "app.py").write_text(APP)
    command = ("-m", "mxworker", "run", f"{app}:handlers", "--app-dir", str(folder), "--insecure-app-dir", *more)
    patience = ("--workers", "1", "--connect-wait", "5s", "--drain-timeout", "1s")
    options = ("--log-format", log_format, "--log-level", "debug", *patience)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *options,
        env={
            "PYTHONPATH": str(REPOSITORY),
            "MXWORKER_BROKER_URL": f"amqp://guest:guest@127.0.0.1:{broker.url.port}/",
            "XDG_RUNTIME_DIR": str(folder),
            "PATH": os.environ["PATH"],
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def deliver_and_take_back(peer: Peer) -> None:
    """Introduce itself, deliver and block, close a channel that publishes, and cancel: each with a hostile text."""
    await introduce_itself(peer, product=HOSTILE, version=HOSTILE)
    while True:
        channel, frame = await peer.read()
        answer = answer_to(frame)
        if isinstance(frame, commands.Basic.Publish):
            peer.send(commands.Channel.Close(406, HOSTILE, 60, 40), channel)
        elif isinstance(frame, commands.Basic.Consume):
            peer.send(commands.Basic.ConsumeOk(HOSTILE), channel)
            named = raw_properties(message_id=HOSTILE.encode(), correlation_id=HOSTILE.encode())
            peer.write(delivery(1, HOSTILE.encode(), channel, named))
            peer.send(commands.Connection.Blocked(HOSTILE))
        elif isinstance(frame, commands.Basic.Nack | commands.Basic.Reject):
            peer.send(commands.Connection.Unblocked())
            peer.send(commands.Basic.Cancel(HOSTILE), channel)
        elif answer is not None:
            peer.send(answer, channel)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_service_that_runs_tells_of_hostile_messages_and_events_harmlessly(
    log_format: str, tmp_path: Path
) -> None:
    told = (b" is ready: bad", b"no publishes: bad", b"message bad", b"no such order bad", b"the broker cancelled")
    said = b""
    async with FakeBroker(deliver_and_take_back) as broker, service(broker, tmp_path, log_format) as process:
        assert process.stderr is not None
        async with asyncio.timeout(120):
            while not all(each in said for each in told):
                line = await process.stderr.readline()
                assert line, said
                said += line
            process.terminate()
            said += (await process.communicate())[1]
    (assert_harmless if log_format == "text" else assert_harmless_json)(said.decode())


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("script", [refuse_credentials, close_at_the_first_declare, close_at_start])
async def test_service_that_cannot_start_says_why_harmlessly(script: Script, log_format: str, tmp_path: Path) -> None:
    async with FakeBroker(script) as broker, service(broker, tmp_path, log_format) as process, asyncio.timeout(120):
        _, stderr = await process.communicate()
    said = stderr.decode()
    assert process.returncode == 4, said
    assert "cod.exe" in said, "the broker's words are not kept back"
    (assert_harmless if log_format == "text" else assert_harmless_json)(said)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_app_that_is_called_anything_is_named_harmlessly(log_format: str, tmp_path: Path) -> None:
    """In what is said at the start, in its lines, and in why it cannot start."""
    odd = "x\n\x1b[2J\u202e\nReady in 0.01 s. Ctrl-C drains.py"
    (tmp_path / odd).write_text(f"{APP}\nraise ValueError(__file__)\n")
    async with (
        FakeBroker(deliver_and_take_back) as broker,
        service(broker, tmp_path, log_format, "--name", HOSTILE, app=odd) as process,
        asyncio.timeout(120),
    ):
        _, stderr = await process.communicate()
    said = stderr.decode()
    assert process.returncode == 3, said
    (assert_harmless if log_format == "text" else assert_harmless_json)(said)
