"""When the broker's answer that a queue holds nothing is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat

import pytest
from pamqp import commands

from mxworker.amqp.consuming import depth as asking
from mxworker.amqp.consuming.depth import sure_depth
from mxworker.errors import ChannelLost
from tests.loop.amqp.consuming.consuming import open_soon
from tests.loop.amqp.fake_broker import FakeBroker, Peer, answer_to
from tests.loop.loops import on_both_loops

BEYOND_THE_BROKERS_PATIENCE_S = 0.3


class Slow:
    """A script that answers late: each question about the queue with the next of `counts`, others after some time."""

    def __init__(self, counts: Iterator[tuple[int, int]], round_trips_s: Iterator[float]) -> None:
        self._counts = counts
        self._round_trips_s = round_trips_s

    async def script(self, peer: Peer) -> None:
        await peer.handshake()
        while True:
            channel, frame = await peer.read()
            match frame:
                case commands.Queue.Declare():
                    await asyncio.sleep(BEYOND_THE_BROKERS_PATIENCE_S)
                    peer.send(commands.Queue.DeclareOk("queue", *next(self._counts)), channel)
                case commands.Channel.Flow():
                    await asyncio.sleep(next(self._round_trips_s))
                    peer.send(commands.Channel.FlowOk(True), channel)
                case _ if answer := answer_to(frame):
                    peer.send(answer, channel)
            if isinstance(frame, commands.Connection.Close):
                return


@pytest.mark.parametrize(
    ("later", "round_trip_s", "believed"),
    [
        pytest.param((5, 1), 0.0, (5, 1), id="the-queue-is-slow"),
        pytest.param((0, 0), 0.2, (0, 0), id="all-answers-are-slow"),
    ],
)
@on_both_loops
async def test_a_late_answer_of_nothing_is_believed_when_all_answers_are_late(
    later: tuple[int, int], round_trip_s: float, believed: tuple[int, int]
) -> None:
    counts = chain([(0, 0)] * 2, repeat(later))
    async with FakeBroker(Slow(counts, repeat(round_trip_s)).script) as broker:
        connection = await open_soon(broker)
        assert await sure_depth(await connection.channel(), "queue") == believed
        await connection.close()


@on_both_loops
async def test_a_busy_moment_does_not_make_it_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_PATIENCE_S", 2.0)
    round_trips_s = chain([0.3] * 3, repeat(0.0))
    async with FakeBroker(Slow(repeat((0, 0)), round_trips_s).script) as broker:
        connection = await open_soon(broker)
        with pytest.raises(ChannelLost, match="does not know how many messages"):
            await sure_depth(await connection.channel(), "queue")
        await connection.close()
