"""A suspect runs with nothing beside it in its process, and in its turn; with deliveries that nobody sent."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from mxworker import Context, Delivery, Handlers, Queue, Reject, Requeue
from mxworker.api.context import WorkerResources
from mxworker.board.layout import Word
from mxworker.board.suspects import Death
from mxworker.errors import PublishNacked
from mxworker.wire.message_keys import MessageKeys
from mxworker.worker.drain import Drain
from mxworker.worker.handling.decode_budget import Unprocessed
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Bench, Channel, at_work
from tests.harness.waiting import until
from tests.rabbit import raw

STUBBORN_S = 10.0
DEATH = Death(-11, 1_000_000, 1.0, 1_700_000_000)


def delivery(channel: Channel, tag: int, *, redelivered: bool = False) -> Delivery:
    return Delivery(b"%d" % tag, b"\0\0", b"\0\0", redelivered, tag, channel)


def key_of(bench: Bench, tag: int, queue: str = "queue") -> int:
    """Return the key of what `delivery` returns."""
    return MessageKeys(bench.slot.secret, queue).key(b"\0\0", b"\0\0", b"%d" % tag)


def suspect(bench: Bench, channel: Channel, tag: int, queue: str = "queue") -> Delivery:
    """Return a delivery that comes again after a worker died that had started it."""
    bench.slot.suspects.enter([key_of(bench, tag, queue)], None, DEATH)
    return delivery(channel, tag, redelivered=True)


def is_suspect(bench: Bench, tag: int, queue: str = "queue") -> bool:
    return bench.slot.suspects.find(key_of(bench, tag, queue)) is not None


class Gated:
    """Handlers whose deliveries run until their tag is released, and who remembers which ran beside which."""

    def __init__(self, *queues: Queue | str, **options: object) -> None:
        self.handlers = Handlers()
        self.running: list[int] = []
        self.started: list[int] = []
        self.started_at: dict[int, float] = {}
        self.beside: dict[int, set[int]] = {}
        self.is_stubborn = False
        self._released: dict[int, asyncio.Event] = {}
        for queue in queues or ("queue",):
            self.handlers.consume(queue, **options)(self._handler(queue))

    def _handler(self, queue: Queue | str) -> object:
        async def hold(body: bytes, ctx: Context) -> None:
            await self._hold(ctx.delivery.delivery_tag)

        hold.__name__ = str(queue if isinstance(queue, str) else queue.name)
        return hold

    async def _hold(self, tag: int) -> None:
        self.started.append(tag)
        self.started_at[tag] = asyncio.get_running_loop().time()
        self.beside[tag] = set(self.running)
        for other in self.running:
            self.beside[other].add(tag)
        self.running.append(tag)
        gate = self._released.setdefault(tag, asyncio.Event())
        try:
            give_up_at = asyncio.get_running_loop().time() + STUBBORN_S
            while not gate.is_set():
                try:
                    async with asyncio.timeout_at(give_up_at):
                        await gate.wait()
                except asyncio.CancelledError:
                    if not self.is_stubborn:
                        raise
        finally:
            self.running.remove(tag)

    def release(self, *tags: int) -> None:
        for tag in tags:
            self._released.setdefault(tag, asyncio.Event()).set()


async def turns() -> None:
    """Let the loop do all that can be done now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_suspect_starts_when_all_else_has_ended_and_nothing_starts_beside_it() -> None:
    gated = Gated(concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    for tag in (1, 2):
        bench.runner.admit(delivery(channel, tag))
    bench.runner.admit(suspect(bench, channel, 3))
    bench.runner.admit(delivery(channel, 4))
    await turns()
    assert gated.running == [1, 2, 4], "all else goes on while it is not our turn"
    bench.give_turn()
    bench.runner.admit(delivery(channel, 5))
    gated.release(1, 2)
    await turns()
    assert gated.running == [4]
    gated.release(4)
    await turns()
    assert gated.running == [3]
    assert bench.slot.told.alone_key == key_of(bench, 3)
    gated.release(3, 5)
    await bench.runner.finished()
    await until(lambda: channel.settled == 5, 5)
    assert gated.beside[3] == set()
    assert gated.started[-1] == 5
    assert bench.slot.told.alone_key is None


@pytest.mark.parametrize("comes_first", ["suspect", "held"])
async def test_delivery_of_which_no_copy_is_taken_is_not_held_while_a_suspect_has_its_turn(comes_first: str) -> None:
    """It would keep all handlers of the process from their work."""
    handlers, publishing = Handlers(), Publishing(PublishNacked("full"))

    @handlers.consume(Queue("queue", declare="passive"))
    async def refuse(body: bytes) -> Reject:
        return Reject("no")

    publisher: Any = publishing
    resources = WorkerResources(publisher, publisher, publisher)
    bench, channel = at_work(handlers, resources=resources, rng=Hasty()), Channel()
    first = suspect(bench, channel, 1) if comes_first == "suspect" else delivery(channel, 1)
    first.received_at = time.monotonic()
    bench.runner.admit(first)
    if comes_first == "held":
        await until(lambda: len(publishing.published) > 20, 5, "tries")
        assert not channel.settled
        bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    await until(lambda: channel.given_back[:1] == [1], 5, "it to go back")


async def test_master_is_asked_to_clear_a_suspect_that_came_to_its_end_and_no_other() -> None:
    gated = Gated(concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    suspect(bench, channel, 3)
    gated.release(1, 2)
    await turns()
    bench.give_turn()
    await bench.runner.finished()
    await turns()
    assert not is_suspect(bench, 2), "it is forgotten at once"
    assert bench.slot.told.clearings(0) == [(key_of(bench, 2), 1)]
    assert is_suspect(bench, 3)


async def test_suspect_waits_for_other_handlers_of_the_process_too() -> None:
    gated = Gated("a", "b")
    bench, channel = at_work(gated.handlers), Channel()
    first, second = bench.runners
    second.admit(delivery(channel, 1))
    first.admit(suspect(bench, channel, 2, "a"))
    bench.give_turn()
    await turns()
    assert gated.running == [1]
    gated.release(1)
    second.admit(delivery(channel, 3))
    await turns()
    assert gated.running == [2]
    gated.release(2, 3)
    await until(lambda: channel.settled == 3, 5)
    assert gated.beside[2] == set()


async def test_message_that_comes_again_and_is_no_suspect_runs_beside_others() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.slot.suspects.enter([1], None, DEATH)
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(delivery(channel, 2, redelivered=True))
    await turns()
    assert gated.running == [1, 2]
    gated.release(1, 2)
    await bench.runner.finished()


async def test_same_message_id_with_another_body_is_no_suspect() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    suspect(bench, channel, 1)
    bench.runner.admit(Delivery(b"another body", b"\0\0", b"\0\0", True, 2, channel))
    await turns()
    assert gated.running == [2]
    gated.release(2)
    await bench.runner.finished()


# ---- cleared


async def alone() -> tuple[Gated, Bench, Channel]:
    """Return a handler at work on a suspect, which runs alone."""
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    await turns()
    return gated, bench, channel


async def test_suspect_that_came_to_its_end_is_cleared() -> None:
    gated, bench, channel = await alone()
    assert is_suspect(bench, 1)
    gated.release(1)
    await bench.runner.finished()
    await turns()
    assert channel.acked == [1]
    assert not is_suspect(bench, 1)


async def test_suspect_that_was_given_back_before_it_ran_stays_suspect() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        raise Unprocessed  # as a large body does that waits too long for its turn to be decoded

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    await bench.runner.finished()
    await turns()
    assert channel.given_back == [1]
    assert is_suspect(bench, 1)


async def test_suspect_that_a_drain_cut_short_stays_suspect() -> None:
    _, bench, channel = await alone()
    bench.runner.cut_short()
    await bench.runner.finished()
    await turns()
    assert channel.settled == 0
    assert is_suspect(bench, 1)


async def test_suspect_whose_channel_was_lost_is_left_to_who_gets_it_now() -> None:
    gated, bench, channel = await alone()
    channel.is_lost = True
    gated.release(1)
    await bench.runner.finished()
    await turns()
    assert is_suspect(bench, 1)


async def test_suspect_whose_handler_fails_is_cleared_too() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def ask_again(body: bytes) -> object:
        return Requeue()

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    await until(lambda: channel.settled, 5)
    await turns()
    assert not is_suspect(bench, 1)


# ---- what is stuck


async def test_stuck_handler_is_not_waited_for() -> None:
    gated = Gated(concurrency=8, timeout=0.05)
    gated.is_stubborn = True
    bench, channel = at_work(gated.handlers, grace_s=0.02), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    await until(lambda: gated.running == [1, 2], 5, "the suspect beside the stuck one")
    assert bench.runner.stuck >= 1
    gated.release(1, 2)
    await bench.runner.finished()


async def test_suspect_that_is_stuck_is_alone_no_more_and_lets_all_else_go_on() -> None:
    gated = Gated(concurrency=8, timeout=0.05)
    gated.is_stubborn = True
    bench, channel = at_work(gated.handlers, grace_s=0.02), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    bench.runner.admit(delivery(channel, 2))
    await until(lambda: gated.running == [1, 2], 5, "the other beside the stuck one")
    assert bench.slot.told.alone_key is None
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    gated.release(1, 2)
    await bench.runner.finished()


async def test_thread_that_is_stuck_is_not_waited_for() -> None:
    handlers = Handlers()
    gate = threading.Event()
    seen: list[bytes] = []

    @handlers.consume("queue", concurrency=8, timeout=0.05)
    def hold(body: bytes) -> None:
        seen.append(body)
        if body == b"1":
            gate.wait(STUBBORN_S)

    bench, channel = at_work(handlers, grace_s=0.02), Channel()
    bench.runner.admit(delivery(channel, 1))
    await until(lambda: seen, 5)
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    await until(lambda: channel.acked == [2], 5, "the suspect")
    gate.set()
    await bench.runner.finished()


async def test_twin_of_a_suspect_with_another_header_clears_itself_alone() -> None:
    """Whoever publishes a harmless one with the same id and body does not reset the count of one that kills."""
    gated = Gated(concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    properties = raw.raw_properties(headers=raw.table(raw.field(b"harmless", b"t", b"\1")))
    twin = Delivery(b"1", properties, b"\0\0", True, 2, channel)
    twin_key = MessageKeys(bench.slot.secret, "queue").key(properties, b"\0\0", b"1")
    for _ in range(2):
        bench.slot.suspects.enter([key_of(bench, 1), twin_key], None, DEATH)
    bench.runner.admit(twin)
    bench.give_turn()
    gated.release(2)
    await until(lambda: channel.acked == [2], 5)
    await turns()
    assert bench.slot.suspects.find(twin_key) is None
    killer = bench.slot.suspects.find(key_of(bench, 1))
    assert killer is not None
    assert killer.kills == 2


# ---- batches, order


async def test_suspect_is_a_batch_of_its_own() -> None:
    handlers = Handlers()
    batches: list[list[bytes]] = []

    @handlers.consume_batch("queue", size=3, wait=0.05)
    async def take(bodies: list[bytes]) -> None:
        batches.append(bodies)

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    bench.runner.admit(delivery(channel, 3))
    await until(lambda: channel.settled == 3, 5)
    assert sorted(batches) == [[b"1", b"3"], [b"2"]]
    assert not is_suspect(bench, 2)


@pytest.mark.parametrize("in_order", [True, False])
async def test_nothing_overtakes_a_suspect_where_order_is_promised(in_order: bool) -> None:
    gated = Gated(Queue("queue", single_active_consumer=in_order), concurrency=1)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.runner.admit(delivery(channel, 3))
    gated.release(1, 2, 3)
    while channel.settled < 3:
        await turns()
        bench.give_turn()
        await asyncio.sleep(0.001)
    assert gated.started == ([1, 2, 3] if in_order else [3, 1, 2])


async def test_doubt_that_is_gone_leaves_the_order_as_it_was() -> None:
    gated = Gated(Queue("queue", single_active_consumer=True), concurrency=1)
    bench, channel = at_work(gated.handlers), Channel()
    bench.other.words[Word.PID] = 4711
    bench.other.enter(0, 1, 1, b"", 1, key_of(bench, 1))
    for tag in (1, 2, 3):
        bench.runner.admit(delivery(channel, tag, redelivered=True))
    await turns()
    assert gated.started == []
    gated.release(1, 2, 3)
    bench.give_turn()
    await until(lambda: channel.settled == 3, 5)
    assert gated.started == [1, 2, 3]


# ---- turns


async def test_each_suspect_asks_for_a_turn_of_its_own_and_the_request_is_taken_back() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    assert bench.slot.words[Word.ISOLATION_WANTED] == 1
    bench.give_turn()
    gated.release(1, 2)
    await until(lambda: channel.acked == [1], 5)
    await turns()
    assert gated.started == [1], "the turn was good for one"
    assert bench.slot.words[Word.ISOLATION_WANTED] == 2
    bench.isolation.look()
    await turns()
    assert gated.started == [1]
    bench.give_turn()
    await until(lambda: channel.acked == [1, 2], 5)
    await turns()
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0


async def test_between_two_suspects_others_have_as_much_time_as_they_waited() -> None:
    gated = Gated(concurrency=2)
    bench, channel = at_work(gated.handlers), Channel()
    loop = asyncio.get_running_loop()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    bench.runner.admit(delivery(channel, 3))
    closed_s = 1.0
    await asyncio.sleep(closed_s)  # the length of the suspect's run is what is tested
    assert gated.running == [1]
    gated.release(1)
    await until(lambda: gated.running == [3], 5)
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    await until(lambda: bench.slot.words[Word.ISOLATION_WANTED] == 2, 5)
    assert loop.time() - gated.started_at[3] > 0.8 * closed_s
    gated.release(2, 3)
    bench.give_turn()
    await until(lambda: channel.settled == 3, 5)


async def test_suspect_that_comes_while_others_have_their_time_waits_for_its_end() -> None:
    gated = Gated(concurrency=2)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    bench.runner.admit(delivery(channel, 3))
    await asyncio.sleep(3)  # as above
    gated.release(1)
    await until(lambda: gated.running == [3], 5)
    bench.runner.admit(suspect(bench, channel, 2))
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    gated.release(2, 3)
    await until(lambda: bench.slot.words[Word.ISOLATION_WANTED] == 2, 10)
    bench.give_turn()
    await until(lambda: channel.settled == 3, 5)


# ---- given back


async def test_pause_gives_suspects_back_and_the_turn_too() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    assert bench.runner.waiting == 1
    assert not bench.runner.is_idle
    bench.give_turn()
    bench.runner.return_waiting()
    assert channel.given_back == [2]
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    bench.runner.admit(delivery(channel, 3))
    await turns()
    assert gated.running == [1, 3], "the process is open again"
    gated.release(1, 3)
    await bench.runner.finished()


async def test_pause_of_one_handler_leaves_the_suspects_of_others_waiting() -> None:
    gated = Gated("a", "b")
    bench, channel = at_work(gated.handlers), Channel()
    first, second = bench.runners
    first.admit(suspect(bench, channel, 1, "a"))
    second.admit(suspect(bench, channel, 2, "b"))
    first.return_waiting()
    assert channel.given_back == [1]
    bench.give_turn()
    gated.release(2)
    await until(lambda: channel.acked == [2], 5)


async def test_drain_gives_suspects_back_and_starts_none() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    for tag in (1, 2):
        bench.runner.admit(suspect(bench, channel, tag))
    bench.give_turn()
    await turns()
    bench.isolation.stop()
    bench.runner.hold()
    bench.runner.admit(suspect(bench, channel, 3))
    bench.runner.return_all()
    bench.runner.admit(suspect(bench, channel, 4))
    assert sorted(channel.given_back) == [2, 3, 4]
    gated.release(1)
    await bench.runner.finished()
    await turns()
    assert gated.started == [1]
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0


async def test_drain_while_the_process_empties_gives_the_turn_back_at_once() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    bench.isolation.stop()
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    bench.runner.hold()
    bench.runner.return_all()
    gated.release(1)
    await bench.runner.finished()
    assert channel.given_back == [2]


async def test_suspects_of_a_lost_channel_are_let_go() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    channel.is_lost = True
    gated.release(1)
    await bench.runner.finished()
    await turns()
    assert gated.started == [1]
    assert bench.runner.waiting == 0
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0


async def test_what_waits_behind_suspects_of_a_lost_channel_starts_without_another_delivery() -> None:
    gated = Gated(Queue("queue", single_active_consumer=True), concurrency=1)
    bench, lost, channel = at_work(gated.handlers), Channel(), Channel()
    bench.runner.admit(suspect(bench, lost, 1))
    bench.runner.admit(delivery(channel, 2))
    lost.is_lost = True
    bench.give_turn()
    await turns()
    assert gated.running == [2]
    gated.release(2)
    await bench.runner.finished()


@pytest.mark.parametrize("number", range(5))
async def test_whatever_happens_a_suspect_is_alone_and_everything_is_settled_once(
    rng: random.Random, number: int
) -> None:
    handlers = Handlers()
    alone: set[bytes] = set()
    running: set[bytes] = set()

    async def work(body: bytes) -> None:
        assert not (alone & running), "something was started beside a suspect"
        assert not running or body not in alone, "a suspect was started beside something"
        running.add(body)
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.005]))
        running.discard(body)

    @handlers.consume("a", concurrency=4, on_error="reject")
    async def a(body: bytes) -> None:
        await work(body)

    @handlers.consume("b", concurrency=2, on_error="reject")
    async def b(body: bytes) -> None:
        await work(body)

    bench, channel = at_work(handlers, process_concurrency=5), Channel()
    count = 300
    for tag in range(1, count + 1):
        runner, queue = rng.choice([(bench.runners[0], "a"), (bench.runners[1], "b")])
        if rng.random() < 0.2:
            alone.add(b"%d" % tag)
            runner.admit(suspect(bench, channel, tag, queue))
        else:
            runner.admit(delivery(channel, tag))
        if rng.random() < 0.3:
            bench.give_turn()
        if rng.random() < 0.2:
            await asyncio.sleep(0)
        if rng.random() < 0.02:
            runner.return_waiting()
    deadline = asyncio.get_running_loop().time() + 20
    while channel.settled < count:
        assert asyncio.get_running_loop().time() < deadline, f"{channel.settled} of {count} settled"
        bench.give_turn()
        await asyncio.sleep(0)
    assert not channel.rejected, "an assertion in the handler failed"
    assert sorted(channel.acked + channel.given_back) == list(range(1, count + 1))
    assert not bench.broken


async def test_suspect_that_has_waited_a_third_of_consumer_timeout_is_given_back_and_stays_suspect() -> None:
    gated = Gated(Queue("queue", arguments={"x-consumer-timeout": 300}))
    bench, channel = at_work(gated.handlers), Channel()
    loop = asyncio.get_running_loop()
    admitted_at = loop.time()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.runner.admit(delivery(channel, 2))
    await until(lambda: channel.given_back == [1], 5, "the suspect to be given back")
    assert loop.time() - admitted_at > 0.09
    assert is_suspect(bench, 1)
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    assert gated.running == [2]
    gated.release(2)
    await bench.runner.finished()


async def test_suspect_that_runs_is_not_given_back_however_long_it_takes() -> None:
    gated = Gated(Queue("queue", arguments={"x-consumer-timeout": 150}), timeout=10)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    bench.give_turn()
    bench.runner.admit(suspect(bench, channel, 2))
    await until(lambda: channel.given_back == [2], 5, "the one that waits")
    assert gated.running == [1]
    gated.release(1)
    await until(lambda: channel.acked == [1], 5)
    assert channel.settled == 2


async def test_where_order_is_promised_what_waits_behind_a_suspect_is_given_back_with_it() -> None:
    gated = Gated(Queue("queue", single_active_consumer=True, arguments={"x-consumer-timeout": 150}), concurrency=1)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(suspect(bench, channel, 1))
    for tag in (2, 3):
        bench.runner.admit(delivery(channel, tag))
    await until(lambda: channel.given_back, 5, "the suspect to be given back")
    assert channel.given_back == [1, 2, 3]
    await turns()
    assert gated.started == []


# ---- when the master does not know yet


@pytest.mark.parametrize("has_died", [True, False])
async def test_message_that_another_process_has_started_waits_for_the_masters_look(has_died: bool) -> None:
    gated = Gated(concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    key = key_of(bench, 2)
    bench.other.words[Word.PID] = 4711
    bench.other.enter(0, 2, 1, b"", 1, key)
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(delivery(channel, 2, redelivered=True))
    bench.runner.admit(delivery(channel, 3, redelivered=True))
    await turns()
    assert gated.running == [1, 3]
    if has_died:
        bench.slot.suspects.enter([key], None, DEATH)
    bench.give_turn()
    await turns()
    assert gated.running == ([1, 3] if has_died else [1, 3, 2])
    gated.release(1, 3)
    await turns()
    assert gated.running == [2]
    gated.release(2)
    await bench.runner.finished()
    await turns()
    assert bench.slot.words[Word.ISOLATION_WANTED] == 0
    assert (gated.beside[2] == set()) is has_died


async def test_doubt_ends_in_time_although_others_have_the_turn() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers), Channel()
    bench.other.words[Word.PID] = 4711
    bench.other.enter(0, 1, 1, b"", 1, key_of(bench, 1))
    bench.runner.admit(delivery(channel, 1, redelivered=True))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.isolation.look()
    await turns()
    assert gated.running == []
    await asyncio.sleep(0.6)  # more than the master needs
    bench.isolation.look()
    await turns()
    assert gated.running == [1]
    assert bench.slot.words[Word.ISOLATION_WANTED] == 1, "the suspect still waits for its turn"
    gated.release(1, 2)
    await until(lambda: channel.settled == 1, 5)
    bench.give_turn()
    await until(lambda: channel.settled == 2, 5)


async def test_with_quarantine_off_no_message_is_in_doubt() -> None:
    gated = Gated()
    bench, channel = at_work(gated.handlers, quarantine_after=0), Channel()
    bench.other.words[Word.PID] = 4711
    bench.other.enter(0, 1, 1, b"", 1, key_of(bench, 1))
    bench.runner.admit(delivery(channel, 1, redelivered=True))
    await turns()
    assert gated.running == [1]
    gated.release(1)
    await bench.runner.finished()


class Consumed:
    """A consumer whose channel has gone."""

    queue = Queue("queue")
    subscription = None

    async def cancel(self) -> None:
        pass


class NothingPublished:
    async def drain(self) -> None:
        pass


async def test_drain_starts_nothing_of_what_waits_while_the_process_empties() -> None:
    gated = Gated(concurrency=4)
    bench, channel = at_work(gated.handlers), Channel()
    bench.runner.admit(delivery(channel, 1))
    bench.runner.admit(suspect(bench, channel, 2))
    bench.give_turn()
    for tag in (3, 4):
        bench.runner.admit(delivery(channel, tag))
    await turns()
    deadline = asyncio.get_running_loop().time() + 10
    drain = Drain([Consumed()], bench.runners, bench.isolation, NothingPublished(), asyncio.Event(), deadline)
    draining = asyncio.create_task(drain.run())
    await turns()
    assert gated.running == [1]
    gated.release(1)
    assert await draining
