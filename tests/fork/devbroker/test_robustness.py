"""Clients that send rubbish, come in hundreds, never ack or send a lot: others are served, and memory is bounded."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pamqp import commands
from pamqp import frame as frames

from mxworker.devbroker.process import BrokerProcess, start_broker
from tests.harness.scales import FULL_ONLY
from tests.harness.waiting import wait_until
from tests.harness.wire import Closed, Wire

GREETING = b"AMQP\x00\x00\x09\x01"


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    """A broker of this module alone; it must live through all of it."""
    with start_broker() as started:
        yield started
        assert started.is_running


def rss_mib(broker: BrokerProcess, which: str = "VmRSS") -> float:
    """Return its memory in use, or with `VmHWM` the most that ever was."""
    status = Path(f"/proc/{broker.pid}/status").read_text()
    found = re.search(rf"{which}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def serves(url: str) -> bool:
    """Tell whether another client is served."""
    with Wire(url) as wire:
        channel = wire.channel()
        queue = channel.declare("", exclusive=True).queue
        channel.publish(queue, b"alive")
        got = channel.get(queue)
        return got is not None and got.body == b"alive"


def recorded_session() -> bytes:
    """Return what an ordinary client sends, after the greeting."""
    methods = (
        (commands.Connection.StartOk({"product": "fuzz"}, "PLAIN", "\0guest\0guest"), 0),
        (commands.Connection.TuneOk(2047, 131_072, 0), 0),
        (commands.Connection.Open("/"), 0),
        (commands.Channel.Open(), 1),
        (commands.Queue.Declare(queue="fuzz", auto_delete=True, arguments={"x-max-length": 10, "n": {"t": [1]}}), 1),
        (commands.Exchange.Declare(exchange="fuzz", exchange_type="topic", auto_delete=True), 1),
        (commands.Queue.Bind(queue="fuzz", exchange="fuzz", routing_key="a.#"), 1),
        (commands.Basic.Qos(prefetch_count=5), 1),
        (commands.Basic.Consume(queue="fuzz", consumer_tag="c"), 1),
        (commands.Confirm.Select(), 1),
        (commands.Basic.Publish(exchange="fuzz", routing_key="a.b"), 1),
    )
    content = struct.pack(">HHQH", 60, 0, 4, 1 << 13) + b"\x00\x00\x00\x03\x01aV"
    tail = (
        struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce" + struct.pack(">BHI", 3, 1, 4) + b"body\xce",
        frames.marshal(commands.Basic.Ack(1), 1),
        frames.marshal(commands.Basic.Cancel("c"), 1),
    )
    return b"".join(frames.marshal(method, channel) for method, channel in methods) + b"".join(tail)


def told(connection: socket.socket) -> list[int]:
    """Say that nothing more comes, and return the codes with which the broker closes a connection that then ends."""
    connection.shutdown(socket.SHUT_WR)
    received = b"".join(iter(lambda: connection.recv(65_536), b""))
    codes, at = [], 8 if received.startswith(b"AMQP") else 0
    while at < len(received):
        kind, _, size = struct.unpack_from(">BHI", received, at)
        if kind == 1 and received[at + 7 : at + 11] == struct.pack(">HH", 10, 50):
            codes.append(struct.unpack_from(">H", received, at + 11)[0])
        at += 8 + size
    return codes


BROKER = (sys.executable, "-m", "mxworker.devbroker", "--port=0", f"--dies-with={os.getpid()}")


@contextmanager
def started_as(command: Sequence[str], stderr: Any = None) -> Iterator[str]:
    """Run the command of a broker, and yield the broker's URL."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as running:
        assert running.stdout is not None
        try:
            yield json.loads(running.stdout.readline())["url"]
        finally:
            running.terminate()


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[str]:
    """The URL of a broker, in whose log no fault of its own may stand at the end."""
    log = tmp_path / "log"
    with log.open("wb") as stderr, started_as(BROKER, stderr) as url:
        yield url
    found = [line for line in log.read_text().splitlines() if '"level":"info"' not in line]
    assert found == []


def test_fuzzed_sessions(fuzzed: str, rng: random.Random, scale: Callable[[int, int], int]) -> None:
    session = recorded_session()
    seen: set[int] = set()
    for _ in range(scale(150, 3000)):
        mutated = bytearray(session)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutated))
            match rng.randrange(3):
                case 0:
                    mutated[at] = rng.randrange(256)
                case 1:
                    del mutated[at : at + rng.randint(1, 30)]
                case _:
                    mutated[at:at] = rng.randbytes(rng.randint(1, 30))
        with closing(socket.create_connection(("127.0.0.1", urlsplit(fuzzed).port or 0), 60)) as connection:
            connection.sendall(GREETING + (mutated if rng.random() < 0.9 else mutated[: rng.randint(1, len(mutated))]))
            codes = told(connection)
        assert len(codes) <= 1
        seen.update(codes)
    assert 541 not in seen
    assert 501 in seen
    assert serves(fuzzed)


def test_truncated_sessions(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    session = recorded_session()
    for at in range(0, len(session), scale(29, 1)):
        wire = Wire(broker.url, opened=False)
        wire.send_bytes(GREETING + session[:at])
        wire.kill()
    assert serves(broker.url)


def test_idle_connections(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    count = scale(100, 1000)
    before = rss_mib(broker)
    idle = [Wire(broker.url) for _ in range(count)]
    for wire in idle:
        wire.channel()
    assert serves(broker.url)
    assert rss_mib(broker) - before < 20 + count * 0.05
    for wire in idle:
        wire.kill()
    with broker.control() as control:
        while control.connections() > 0:
            pass


def test_more_connections_than_the_usual_limit_of_files() -> None:
    with started_as(["sh", "-c", 'ulimit -S -n 32 && exec "$@"', "sh", *BROKER]) as url, ExitStack() as idle:
        for _ in range(50):
            idle.enter_context(Wire(url))
        assert serves(url)


def test_a_consumer_that_never_acks(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    count, size = scale(2_000, 50_000), 1024
    before = rss_mib(broker)
    with Wire(broker.url) as wire, Wire(broker.url) as other:
        channel, publisher = wire.channel(), other.channel()
        channel.declare("unacked", auto_delete=True)
        channel.qos(0)
        channel.consume("unacked")
        publisher.confirm()
        for _ in range(count):
            publisher.publish("unacked", b"x" * size)
        publisher.confirmed(count)
        assert rss_mib(broker) - before < 40 + 3 * count * size / 1024 / 1024
        assert len(channel.deliveries(count)) == count
    assert serves(broker.url)


def test_a_client_that_does_not_read(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    """What waits for it stays in the queue: only a bounded part is written to its connection."""
    count, size = scale(64, 640), 262_144
    with Wire(broker.url) as deaf, Wire(broker.url) as other, broker.control() as control:
        channel, publisher = deaf.channel(), other.channel()
        channel.declare("deaf", auto_delete=True)
        channel.consume("deaf", no_ack=True)
        for _ in range(count):
            publisher.publish("deaf", b"x" * size)
        publisher.sync()
        assert control.queues()["deaf"]["ready"] > count // 2
        assert serves(broker.url)


def test_a_large_body(scale: Callable[[int, int], int]) -> None:
    """It is held once, and for a moment as a copy that comes in or goes out in pieces.

    The allocator may keep what is free, so that the present memory proves nothing: ten bodies need no more than four.
    """
    size_mib = scale(8, 64)
    with start_broker() as broker, Wire(broker.url) as wire:
        before = rss_mib(broker)
        channel = wire.channel()
        channel.declare("large", exclusive=True)
        body = random.Random(1).randbytes(1024) * (size_mib * 1024)
        for _ in range(10):
            channel.publish("large", body)
            got = channel.get("large", no_ack=True)
            assert got is not None
            assert got.body == body
        assert rss_mib(broker, "VmHWM") < before + 4 * size_mib + 20
        assert serves(broker.url)


def test_a_body_that_never_comes_costs_nothing(broker: BrokerProcess) -> None:
    with Wire(broker.url) as wire:
        channel = wire.channel()
        channel.send(commands.Basic.Publish(routing_key="x"))
        content = struct.pack(">HHQH", 60, 0, 100 * 1024 * 1024, 0)
        before = rss_mib(broker)
        wire.send_bytes(struct.pack(">BHI", 2, channel.number, len(content)) + content + b"\xce")
        assert serves(broker.url)
        assert rss_mib(broker) - before < 10
        with pytest.raises(Closed, match="505 UNEXPECTED_FRAME"):
            channel.counts("x")


@FULL_ONLY
def test_memory_of_messages_that_have_gone_is_given_back() -> None:
    with start_broker() as broker, Wire(broker.url) as wire:
        before = rss_mib(broker)
        channel = wire.channel()
        channel.declare("gone", exclusive=True)
        for _ in range(10_000):
            channel.publish("gone", b"x" * 20_000)
        channel.sync()
        assert rss_mib(broker) > before + 150
        channel.call(commands.Queue.Purge(queue="gone"))
        wait_until(lambda: rss_mib(broker) < before + 40, 30, "the memory")


def test_tables_inside_each_other_have_a_bound(broker: BrokerProcess) -> None:
    table = b""
    for _ in range(10_000):
        table = b"\x01tF" + struct.pack(">I", len(table)) + table
    payload = struct.pack(">HHHBB", 50, 10, 0, 0, 0) + struct.pack(">I", len(table)) + table
    with Wire(broker.url) as wire:
        channel = wire.channel()
        wire.send_bytes(struct.pack(">BHI", 1, channel.number, len(payload)) + payload + b"\xce")
        with pytest.raises(Closed, match=r"501 FRAME_ERROR - cannot decode .*: tables are nested"):
            channel.read()
    assert serves(broker.url)


def test_hostile_headers_are_dead_lettered(broker: BrokerProcess) -> None:
    from tests.rabbit.raw import HOSTILE

    with Wire(broker.url) as wire:
        channel = wire.channel()
        channel.declare("letters", exclusive=True)
        channel.declare(
            "hostile",
            exclusive=True,
            arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters", "x-message-ttl": 0},
        )
        for properties in HOSTILE.values():
            channel.send(commands.Basic.Publish(routing_key="hostile"))
            content = struct.pack(">HHQ", 60, 0, 0) + properties
            if len(content) > 131_064:
                continue
            wire.send_bytes(struct.pack(">BHI", 2, channel.number, len(content)) + content + b"\xce")
        channel.sync()
        ready, _ = channel.counts("letters")
        assert ready == len(HOSTILE)
