"""A replay loses no letter, whatever ends it; it takes the letters that it has planned to take, in their order."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mxworker.brokers import Brokers
from mxworker.letters.connecting import connected
from mxworker.letters.filters import Filters
from mxworker.letters.letter import Letter, Original, letter_in
from mxworker.letters.lock import LettersLocked
from mxworker.letters.looking import look
from mxworker.letters.moving import AT_ONCE, Moves, Way
from mxworker.letters.plan import Plan
from mxworker.letters.taking import Source, move
from mxworker.wire.own_headers import REPLAY_HEADER, REPLAYS_HEADER
from tests.broker.letters.dead import Dead, letter, numbers
from tests.harness.repository import REPOSITORY
from tests.harness.scales import FULL_ONLY
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node
from tests.rabbit.processes import DIES_WITH_PARENT

WAIT_S = 30.0
SOON_S = 60.0
KILLS = 3


class Replay:
    """`mxworker dlq replay` as a process, with its audit lines in a file."""

    def __init__(self, url: str, dead: Dead, folder: Path, number: int, rate: int) -> None:
        self._out = folder / f"replay-{number}.out"
        command = ["-m", "mxworker", "dlq", "replay", dead.work, "--yes", f"--rate={rate}", "--connect-wait=60s"]
        with self._out.open("wb") as out, (folder / f"replay-{number}.err").open("wb") as err:
            self.process = subprocess.Popen(
                [*DIES_WITH_PARENT, sys.executable, *command],
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "MXWORKER_BROKER_URL": url},
                stdout=out,
                stderr=err,
            )

    @property
    def told(self) -> list[int]:
        """The numbers of the letters with an audit line, in order. A line that was cut off does not count."""
        lines = self._out.read_text().splitlines(keepends=True)
        return [int(line.split(" id order-")[1].split()[0]) for line in lines if line.endswith("\n")]

    def wait_told(self, letters: int) -> None:
        wait_until(
            lambda: len(self.told) >= letters or self.process.poll() is not None, SOON_S, f"{letters} audit lines"
        )


def check_places(dead: Dead, letters: int, told: list[int], interruptions: int) -> int:
    """Check that each letter is in one place, or in two where an interruption fell; return how many are in two."""
    assert dead.count == 0
    replayed = numbers(dead.admin.hold(dead.work, dead.admin.counts(dead.work).messages))  # faster than to get each
    assert set(replayed) == set(range(letters))
    first = list(dict.fromkeys(replayed))
    assert first == sorted(first), "the order was not kept"
    assert set(told) == set(range(letters)), "a letter was removed without an audit line"
    copies = Counter(replayed)
    assert max(copies.values()) <= 1 + interruptions
    more = len(replayed) - letters
    assert more <= interruptions * AT_ONCE
    return more


def test_killed_replays_lose_no_letter(
    broker_url: str, admin: Client, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int], seed: int
) -> None:
    rng = random.Random(seed)
    letters = scale(2500, 5000)
    dead = Dead(admin, queue_name)
    dead.put(map(letter, range(letters)))
    told: list[int] = []
    for number in range(KILLS):
        replay = Replay(broker_url, dead, tmp_path, number, rate=letters // 6)  # slow enough to be killed in its middle
        replay.wait_told(rng.randrange(50, 100))
        assert replay.process.poll() is None, "it ended before it was killed"
        replay.process.kill()
        replay.process.wait()
        told += replay.told
        acked = len(set(told))  # at most
        wait_until(lambda: dead.count >= letters - acked, SOON_S, "what it held is back")  # noqa: B023
    last = Replay(broker_url, dead, tmp_path, KILLS, rate=letters)
    assert last.process.wait(SOON_S) == 0
    told += last.told
    print(f"{check_places(dead, letters, told, KILLS)} of {letters} letters are there twice after {KILLS} kills")


@FULL_ONLY
def test_replay_over_kills_and_a_restart_of_the_broker_loses_no_letter(
    own_node: Callable[..., Node], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    letters = 5000
    node = own_node()
    with Client(node.url) as admin:
        dead = Dead(admin, "orders")
        dead.put(map(letter, range(letters)))
    told: list[int] = []
    interrupted = 0
    for number in range(20):
        replay = Replay(node.url, dead, tmp_path, number, rate=1000)
        if number == 1:
            replay.wait_told(300)
            node.kill()
            assert replay.process.wait(SOON_S) != 0, "it said that all went well"
            node.start()
        elif interrupted <= KILLS:
            replay.wait_told(rng.randrange(200, 600))
            replay.process.kill()
        code = replay.process.wait(SOON_S)
        told += replay.told
        if code == 0:
            break
        interrupted += 1
        acked = len(set(told))  # at most
        wait_until(lambda: _count(node, dead) >= letters - acked, SOON_S, "what it held is back")  # noqa: B023
    with Client(node.url) as admin:
        dead.admin = admin
        print(f"{check_places(dead, letters, told, interrupted)} of {letters} letters are there twice")


def _count(node: Node, dead: Dead) -> int:
    with Client(node.url) as admin:
        return admin.counts(dead.name).messages


class Moving:
    """Moves letters within this process."""

    def __init__(self, url: str, dead: Dead) -> None:
        self._brokers = Brokers.parse([url])
        self._dead = dead

    async def plan(self, filters: Filters | None = None, limit: int | None = None) -> Plan:
        plan = Plan(filters or Filters(), limit, 3)
        async with connected(self._brokers, WAIT_S) as connection:
            await look(connection, self._brokers, self._dead.name, lambda letter, _: plan.see(letter), WAIT_S)
        return plan

    async def run(self, plan: Plan, way: Way, is_back: Callable[[Letter], bool] | None = None) -> Moves:
        async with connected(self._brokers, WAIT_S) as connection:
            return await move(Source(connection, self._brokers, self._dead.name, WAIT_S), plan, way, is_back)

    async def all(self, way: Way) -> Moves:
        return await self.run(await self.plan(), way)


@pytest.fixture
def dead(admin: Client, queue_name: str) -> Dead:
    return Dead(admin, queue_name)


@pytest.fixture
def moving(broker_url: str, dead: Dead) -> Moving:
    return Moving(broker_url, dead)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_filters_take_theirs_and_what_arrives_meanwhile_stays(
    broker_url: str, admin: Client, queue_name: str, kind: str
) -> None:
    dead = Dead(admin, queue_name, kind=kind)
    moving = Moving(broker_url, dead)
    dead.put(letter(number, handler="app.mail" if number % 3 else "app.order") for number in range(30))
    plan = await moving.plan(Filters(handlers=("app.order",)))
    dead.put([letter(30), letter(31)])

    def arrive(_: Original) -> None:
        dead.put([letter(100)])

    moves = await moving.run(plan, Way(dead.work, on_moved=arrive))
    assert (moves.moved, moves.stopped, plan.left) == (10, None, 0)
    assert numbers(admin.drain(dead.work)) == list(range(0, 30, 3))
    wait_until(lambda: dead.count == 32, SOON_S, "the others back")
    assert numbers(dead.take()) == [n for n in range(30) if n % 3] + [30, 31] + [100] * 10


async def test_limit_takes_the_first_and_the_next_replay_the_rest(moving: Moving, dead: Dead) -> None:
    dead.put(map(letter, range(420)))
    for _ in range(2):
        await moving.run(await moving.plan(limit=5), Way(dead.work))
    assert numbers(dead.admin.drain(dead.work)) == list(range(10))
    moves = await moving.all(Way(dead.work))
    assert (moves.moved, moves.in_doubt, dead.count) == (410, 0, 0)
    assert numbers(dead.admin.drain(dead.work)) == list(range(10, 420))


async def test_replay_stops_when_a_letter_comes_back(moving: Moving, dead: Dead) -> None:
    dead.put(map(letter, range(40)))

    def come_back(original: Original) -> None:
        if letter_in(original).message_id == "order-2":
            dead.put([letter(2, **{REPLAY_HEADER: "now", REPLAYS_HEADER: 1})])

    way = Way(dead.work, lambda _: {REPLAY_HEADER: "now"}, come_back, rate=10)
    moves = await moving.run(await moving.plan(), way, lambda found: found.replay == "now")
    assert moves.stopped is not None
    assert "has come back dead" in moves.stopped
    assert 3 <= moves.moved < 40
    wait_until(lambda: dead.count == 41 - moves.moved, SOON_S, "the others back")
    assert numbers(dead.take()) == [*range(moves.moved, 40), 2]


async def test_second_replay_of_a_queue_is_refused_and_waits_for_a_killed_one(
    moving: Moving, dead: Dead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxworker.letters.lock.PATIENCE_S", 0.5)
    dead.put(map(letter, range(3)))
    began, go_on = threading.Event(), threading.Event()

    def hold(_: Original) -> None:
        began.set()
        go_on.wait(SOON_S)

    way = Way(dead.work, on_moved=hold)
    first = asyncio.create_task(asyncio.to_thread(asyncio.run, moving.run(await moving.plan(), way)))
    try:
        assert await asyncio.to_thread(began.wait, SOON_S)
        with pytest.raises(LettersLocked, match="here or on another host"):
            await moving.all(Way(dead.work))
    finally:
        go_on.set()
    assert (await first).moved == 3
    dead.put([letter(3)])
    assert (await moving.all(Way(dead.work))).moved == 1


async def test_refused_letter_stops_the_replay_and_the_rest_stays_in_order(
    moving: Moving, dead: Dead, admin: Client
) -> None:
    small = f"{dead.work}.out"
    admin.declare(small, arguments={"x-max-length": 7, "x-overflow": "reject-publish"})
    try:
        dead.put(map(letter, range(20)))
        moves = await moving.all(Way(small))
        assert moves.stopped is not None
        assert moves.in_doubt == 0
        held = numbers(admin.drain(small))
        assert held == list(range(len(held)))
        assert moves.moved == len(held)
        wait_until(lambda: dead.count == 20 - len(held), SOON_S, "the others back")
        assert numbers(dead.take()) == list(range(len(held), 20))
    finally:
        admin.delete(small)


async def test_letter_for_a_queue_that_is_not_there_stays_and_the_error_names_the_queue(
    moving: Moving, dead: Dead
) -> None:
    dead.put(map(letter, range(5)))
    moves = await moving.all(Way(f"{dead.work}.nowhere"))
    assert moves.moved == 0
    assert moves.stopped is not None
    assert f"{dead.work}.nowhere" in moves.stopped
    wait_until(lambda: dead.count == 5, SOON_S, "all letters back")
    assert numbers(dead.take()) == list(range(5))


async def test_error_of_an_audit_line_stops_the_replay_without_doubles(moving: Moving, dead: Dead) -> None:
    dead.put(map(letter, range(300)))

    def full(original: Original) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await moving.all(Way(dead.work, on_moved=full))
    replayed = numbers(dead.admin.drain(dead.work))
    wait_until(lambda: dead.count == 300 - len(replayed), SOON_S, "the others back")
    assert replayed + numbers(dead.take()) == list(range(300))
    assert len(replayed) <= AT_ONCE


async def test_replayed_letter_keeps_its_content_and_counts_its_replays(
    moving: Moving, dead: Dead, admin: Client
) -> None:
    body, properties = letter(0, tenant="acme", CC=["elsewhere"], **{REPLAYS_HEADER: 1})
    properties.expiration, properties.user_id = "600000", "guest"
    admin.publish_messages(dead.name, [(body, properties)])

    def headers(original: Original) -> dict[str, object]:
        return {REPLAYS_HEADER: letter_in(original).replays + 1, REPLAY_HEADER: "now"}

    await moving.all(Way(dead.work, headers))
    (replayed,) = admin.drain(dead.work)
    assert (replayed.body, replayed.properties.message_id) == (body, "order-0")
    assert (replayed.headers["tenant"], replayed.headers[REPLAYS_HEADER], replayed.headers[REPLAY_HEADER]) == (
        "acme",
        2,
        "now",
    )
    assert replayed.headers["mx-origin-routing-key"] == "orders.new"
    assert replayed.properties.expiration is None
    assert "CC" not in replayed.headers


async def test_replay_keeps_its_rate(moving: Moving, dead: Dead) -> None:
    dead.put(map(letter, range(20)))
    plan = await moving.plan()
    began_at = time.monotonic()
    await moving.run(plan, Way(dead.work, rate=40))
    assert time.monotonic() - began_at >= 19 / 40  # what waited for the broker at first is made up for
