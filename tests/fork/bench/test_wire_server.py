"""The wire server of the benchmarks, in C and in Python: mxworker consumes from it and publishes to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from pamqp import commands

from bench.contenders import Job, Work
from bench.contest import QUEUE, Contestant
from bench.ours.contenders import MXWORKER
from bench.scenario import Place
from bench.wire.server import IN_PYTHON, Counts, WireServer, compile_server
from mxworker import Publisher
from tests.harness.wire import Wire

HELD = 250
PREFETCH = 10


def commands_of_servers() -> Iterator[Sequence[str]]:
    yield IN_PYTHON
    if compiled := compile_server():
        yield (str(compiled),)


@pytest.fixture(params=commands_of_servers(), ids=lambda command: "python" if command is IN_PYTHON else "c")
def server(request: pytest.FixtureRequest) -> Iterator[WireServer]:
    made = WireServer(QUEUE, HELD, 256, request.param)
    yield made
    made.kill()


def test_a_prefetch_bounds_what_is_unsettled_and_acks_bring_more(server: WireServer) -> None:
    with Wire(server.url) as wire:
        channel = wire.channel()
        channel.qos(PREFETCH)
        channel.consume(QUEUE)
        got = [channel.read() for _ in range(PREFETCH)]
        assert [each.tag for each in got] == list(range(1, PREFETCH + 1))
        assert {len(each.body) for each in got} == {256}
        assert channel.is_quiet(0.05)
        channel.send(commands.Basic.Ack(2, False))  # out of order, then once more: counted once
        channel.send(commands.Basic.Ack(4, True))
        channel.send(commands.Basic.Ack(4, True))
        channel.send(commands.Basic.Ack(2, False))
        assert [channel.read().tag for _ in range(4)] == [11, 12, 13, 14]
        channel.send(commands.Basic.Nack(6, False, True))
        channel.send(commands.Basic.Reject(5, True))
        assert [channel.read().tag for _ in range(2)] == [15, 16]
    assert server.stop() == Counts(16, 6, 0)


def test_all_is_delivered_to_a_client_without_prefetch(server: WireServer) -> None:
    with Wire(server.url) as wire:
        channel = wire.channel()
        channel.consume(QUEUE)
        tags = [channel.read().tag for _ in range(HELD)]
        channel.send(commands.Basic.Ack(HELD, True))
        assert tags == list(range(1, HELD + 1))
    assert server.stop() == Counts(HELD, HELD, 0)


def test_each_publish_is_confirmed_and_never_more(server: WireServer) -> None:
    with Wire(server.url) as wire:
        channel = wire.channel()
        channel.confirm()
        publish = channel.encoded_publish(QUEUE, b"x" * 300)
        for sent in range(1, 4):
            wire.send_bytes(publish)
            assert channel.read().delivery_tag == sent
        wire.send_bytes(publish * 201)
        tags = [channel.read().delivery_tag]
        while tags[-1] < 204:
            tags.append(channel.read().delivery_tag)
        assert tags[-1] == 204
        assert tags == sorted(tags)
    assert server.stop() == Counts(0, 0, 204)


async def test_mxworker_publishes_to_it(server: WireServer) -> None:
    async with Publisher.connect(server.url) as publisher:
        await publisher.publish_many([b"x"] * 500, routing_key=QUEUE)
    assert (await asyncio.to_thread(server.stop)).published == 500


def test_mxworker_consumes_from_it(tmp_path) -> None:
    place = Place(tmp_path, 1.0, lambda: pytest.fail("no broker is needed"))
    contestant = Contestant(MXWORKER, Job(Work.CONSUME, 2000), on_wire=True)
    assert contestant.prepare()
    measured = contestant.measure(place)  # Failed unless all 2,000 were settled
    assert measured["rate"] > 0
    assert measured["cpu_us"] > 0
