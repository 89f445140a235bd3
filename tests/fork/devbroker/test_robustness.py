"""Clients that send rubbish, come in hundreds, never ack or send a lot: others are served, and memory is bounded."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pamqp import commands
from pamqp import frame as frames

from mxworker.devbroker.process import BrokerProcess, start_broker
from tests.harness.wire import Closed, Wire

GREETING = b"AMQP\x00\x00\x09\x01"


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    """A broker of this module alone; it must live through all of it."""
    with start_broker() as started:
        yield started
        assert started.is_running


def rss_mib(broker: BrokerProcess) -> float:
    status = Path(f"/proc/{broker.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def serves(broker: BrokerProcess) -> bool:
    """Tell whether another client is served."""
    with Wire(broker.url) as wire:
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
    content = struct.pack(">HHQH", 60, 0, 4, 1 << 13) + b"\x00\x00\x00\x04\x01aV" + b"\x00"
    tail = (
        struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce" + struct.pack(">BHI", 3, 1, 4) + b"body\xce",
        frames.marshal(commands.Basic.Ack(1), 1),
        frames.marshal(commands.Basic.Cancel("c"), 1),
    )
    return b"".join(frames.marshal(method, channel) for method, channel in methods) + b"".join(tail)


def test_fuzzed_sessions(broker: BrokerProcess, rng: random.Random, scale: Callable[[int, int], int]) -> None:
    session = recorded_session()
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
        wire = Wire(broker.url, opened=False)
        wire.send_bytes(GREETING + mutated[: rng.randint(1, len(mutated))])
        wire.kill()
    assert serves(broker)


def test_truncated_sessions(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    session = recorded_session()
    for at in range(0, len(session), scale(29, 1)):
        wire = Wire(broker.url, opened=False)
        wire.send_bytes(GREETING + session[:at])
        wire.kill()
    assert serves(broker)


def test_idle_connections(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    count = scale(100, 1000)
    before = rss_mib(broker)
    idle = [Wire(broker.url) for _ in range(count)]
    for wire in idle:
        wire.channel()
    assert serves(broker)
    assert rss_mib(broker) - before < 20 + count * 0.05
    for wire in idle:
        wire.kill()
    with broker.control() as control:
        while control.connections() > 0:
            pass


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
    assert serves(broker)


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
        assert serves(broker)


def test_a_large_body(broker: BrokerProcess, scale: Callable[[int, int], int]) -> None:
    size = scale(8, 64) * 1024 * 1024
    with Wire(broker.url) as wire:
        channel = wire.channel()
        channel.declare("large", exclusive=True)
        body = random.Random(1).randbytes(1024) * (size // 1024)
        channel.publish("large", body)
        got = channel.get("large")
        assert got is not None
        assert got.body == body
    assert serves(broker)


def test_a_body_that_never_comes_costs_nothing(broker: BrokerProcess) -> None:
    with Wire(broker.url) as wire:
        channel = wire.channel()
        channel.send(commands.Basic.Publish(routing_key="x"))
        content = struct.pack(">HHQH", 60, 0, 100 * 1024 * 1024, 0)
        before = rss_mib(broker)
        wire.send_bytes(struct.pack(">BHI", 2, channel.number, len(content)) + content + b"\xce")
        assert serves(broker)
        assert rss_mib(broker) - before < 10
        with pytest.raises(Closed, match="505 UNEXPECTED_FRAME"):
            channel.counts("x")


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
