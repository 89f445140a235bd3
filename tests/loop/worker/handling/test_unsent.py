"""A delivery is on the board until its settlement was sent: what its handler left behind may end the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mxworker import Handlers
from mxworker.board.page import Board
from mxworker.worker.handling.unsent import Unsent
from tests.harness.runners import Bench, Channel, at_work
from tests.harness.waiting import until
from tests.loop.loops import on_both_loops
from tests.loop.worker.handling.test_isolation import delivery, is_suspect, key_of, suspect

SOON_S = 30.0
tasks: list[asyncio.Task[None]] = []  # the loop alone would not keep them


def by_callback(look: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(look)


def by_task(look: Callable[[], None]) -> None:
    async def look_later() -> None:
        look()

    tasks.append(asyncio.create_task(look_later()))


ways = pytest.mark.parametrize("leave_behind", [by_callback, by_task])


class Leaving:
    """A handler that returns at once, and leaves something behind that looks at the board when message `at` came."""

    def __init__(self, leave_behind: Callable[[Callable[[], None]], None], at: int, batch: int = 0) -> None:
        self.handlers = Handlers()
        self.bench: Bench
        self.seen: list[int] = []
        self.alone: list[int | None] = []
        self.were_suspects: list[bool] = []

        def look() -> None:
            told = self.bench.slot.told
            self.seen += told.keys_in_flight()
            self.alone.append(told.alone_key)
            self.were_suspects.append(is_suspect(self.bench, at))

        async def take(body: bytes) -> None:
            if body == b"%d" % at:
                leave_behind(look)

        async def take_all(bodies: list[bytes]) -> None:
            for body in bodies:
                await take(body)

        if batch:
            self.handlers.consume_batch("queue", size=batch)(take_all)
        else:
            self.handlers.consume("queue")(take)


@ways
@pytest.mark.parametrize("batch", [0, 3])
async def test_message_is_on_the_board_when_what_its_handler_left_behind_runs(
    leave_behind: Callable[[Callable[[], None]], None], batch: int
) -> None:
    leaving, channel = Leaving(leave_behind, 2, batch), Channel()
    leaving.bench = bench = at_work(leaving.handlers)
    bench.runner.admit(*(delivery(channel, tag) for tag in (1, 2, 3)))
    await until(lambda: leaving.alone, SOON_S)
    assert channel.acked == [1, 2, 3]
    assert key_of(bench, 2) in leaving.seen
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)


@ways
async def test_suspect_is_alone_and_a_suspect_until_what_it_left_behind_has_run(
    leave_behind: Callable[[Callable[[], None]], None],
) -> None:
    leaving, channel = Leaving(leave_behind, 1), Channel()
    leaving.bench = bench = at_work(leaving.handlers)
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    await until(lambda: leaving.alone, SOON_S)
    assert channel.acked == [1]
    key = key_of(bench, 1)
    assert (leaving.seen, leaving.alone, leaving.were_suspects) == ([key], [key], [True])
    await until(lambda: not is_suspect(bench, 1), SOON_S)
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)
    assert bench.slot.told.alone_key is None


@on_both_loops
async def test_delivery_leaves_after_the_turn_that_sends_it() -> None:
    """Deliveries that end one after the other, in turns of their own, some before and some after the callback."""
    loop = asyncio.get_running_loop()
    slot = Board(1).slot(1)
    unsent = Unsent(slot, loop)
    ends: dict[int, int] = {}
    turn = 0

    def end(key: int) -> None:
        ends[key] = turn
        unsent.leave(slot.enter(0, key, 1, b"", 1, key))

    end(1)
    loop.call_soon(end, 2)  # behind the callback of the first
    for turn in range(1, 12):
        await asyncio.sleep(0)
        if turn in (1, 2, 5):
            end(turn + 10)
        on_board = set(slot.told.keys_in_flight())
        assert on_board >= {key for key, ended in ends.items() if turn - ended <= 1}, (turn, ends)
        assert on_board <= {key for key, ended in ends.items() if turn - ended <= 3}, (turn, ends)
    assert slot.told.in_flight_count == 0
    assert set(ends) == {1, 2, 11, 12, 15}
