"""Large bodies are charged with what they become, decoded one at a time, and wait for room; small ones never wait."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from mxworker import Delivery, Handlers, Retry
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.worker.handling.decode_budget import DecodeBudget
from tests.harness.runners import Bench, Channel, at_work
from tests.harness.waiting import until
from tests.rabbit.raw import raw_properties

SMALL = b'{"id":"small"}'
RECORDS = b'{"id":"%s","rows":[%s]}' % (b"x" * 10, b",".join([b'{"a":1234,"b":[1.5,2.5],"c":"text"}'] * 6000))
EMPTY = b'{"rows":[%s]}' % b",".join([b"{}"] * 60_000)  # 25 times its size in memory
MIXED = random.Random(1).randbytes(15_000).hex().encode()  # or it would be taken for a bomb
LONG_TEXT = gzip.compress(b'{"id":"%s%s"}' % (MIXED, b"x" * 2_000_000), 1)
LIMIT_BYTES = 10_000_000


class WatchedBudget(ByteBudget):
    """Counts who has waited for room."""

    waits = 0

    def wait(self, retry: Callable[[], None]) -> None:
        self.waits += 1
        super().wait(retry)


class Gate:
    """A handler that holds its payloads until it is let go on."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES, *, size: int | None = None, **said: Any) -> None:
        self.begun: list[Any] = []
        self.budget = WatchedBudget(limit_bytes)
        self.go_on = asyncio.Event()
        self.outcome: Any = None
        self._error: BaseException | None = None
        handlers = Handlers()

        async def take(payload: dict[str, Any]) -> Any:
            self.begun.append(payload)
            await self.go_on.wait()
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

        async def take_all(payloads: list[dict[str, Any]]) -> Any:
            return await take(payloads)  # type: ignore[arg-type]

        if size is None:
            handlers.consume("queue", concurrency=16, retry=None, **said)(take)
        else:
            handlers.consume_batch("queue", size=size, wait=60, concurrency=2, retry=None, **said)(take_all)
        self.room = DecodeBudget(self.budget)
        self.bench: Bench = at_work(handlers, decode_budget=self.room)
        self.channel = Channel()
        self._tag = 0

    def admit(self, body: bytes, encoding: bytes | None = None, channel: Channel | None = None) -> None:
        raw = b"\0\0" if encoding is None else raw_properties(content_encoding=encoding)
        self._tag += 1
        delivery = Delivery(body, raw, b"\0\0", False, self._tag, channel or self.channel)
        self.bench.runner.admit(delivery)

    async def begins(self, count: int) -> None:
        await until(lambda: len(self.begun) >= count, 30, f"{count} handlers")
        for _ in range(20):  # whoever else may begin does so in a few turns
            await asyncio.sleep(0)
        assert len(self.begun) == count

    async def end(self) -> None:
        self.go_on.set()
        await self.bench.runner.finished()


@pytest.mark.parametrize(
    ("body", "encoding", "expected_bytes"),
    [(RECORDS, None, 2_000_000), (LONG_TEXT, b"gzip", 2_000_000), (EMPTY, None, 4_000_000)],
    ids=["records", "compressed", "empty objects"],
)
async def test_budget_is_charged_with_what_a_body_has_become_until_its_handler_has_ended(
    body: bytes, encoding: bytes | None, expected_bytes: int
) -> None:
    gate = Gate(10**9)
    reserved_bytes = len(body) * (10 if len(body) > 65_536 else 1)
    gate.budget.held_bytes = reserved_bytes  # as the subscription has it
    gate.admit(body, encoding)
    await gate.begins(1)
    assert 0.5 * expected_bytes < gate.budget.held_bytes - len(body) < 2 * expected_bytes
    await gate.end()
    assert gate.budget.held_bytes == reserved_bytes
    assert gate.channel.acked == [1]


async def crowded(count: int) -> Gate:
    """Return a handler that got `count` large bodies, and has begun the only one for which there is room."""
    gate = Gate(3_500_000)
    for _ in range(count):
        gate.admit(LONG_TEXT, b"gzip")
    await gate.begins(1)
    return gate


async def test_large_body_waits_until_there_is_room_and_small_ones_do_not() -> None:
    gate = await crowded(3)
    await until(lambda: gate.budget.waits == 1 or len(gate.begun) > 1, 30, "the second one")
    gate.admit(SMALL)
    await gate.begins(2)
    assert gate.begun[1] == {"id": "small"}
    await gate.end()
    assert len(gate.begun) == 4
    assert sorted(gate.channel.acked) == [1, 2, 3, 4]
    assert gate.budget.held_bytes == 0


@pytest.mark.parametrize(("body", "encoding"), [(LONG_TEXT, b"gzip"), (RECORDS, None)], ids=["compressed", "json"])
async def test_alone_a_large_body_needs_no_room_beside_what_was_delivered(body: bytes, encoding: bytes | None) -> None:
    gate = Gate()
    gate.budget.held_bytes = 2 * LIMIT_BYTES  # bodies that wait, and get no smaller
    gate.admit(body, encoding)
    gate.admit(body, encoding)
    await gate.begins(1)
    await gate.end()
    assert len(gate.begun) == 2


@pytest.mark.parametrize(("body", "encoding"), [(EMPTY, None), (LONG_TEXT, b"gzip")], ids=["json", "compressed"])
async def test_payload_that_can_never_fit_is_a_dead_letter_with_the_reason(
    body: bytes, encoding: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(1_500_000)
    gate.admit(body, encoding)
    await until(lambda: gate.channel.settled == 1, 30, "the refusal")
    await gate.end()
    assert gate.channel.rejected == [1]
    assert not gate.begun
    assert "above --prefetch-budget, 1500000 bytes" in caplog.text
    assert gate.budget.held_bytes == 0


async def test_wait_for_room_is_no_time_of_the_handler() -> None:
    gate = Gate(3_500_000, timeout=5)
    gate.room.holders = 1  # somebody else's payload
    gate.budget.held_bytes = 3_500_000
    gate.admit(LONG_TEXT, b"gzip")
    await until(lambda: gate.budget.waits == 1, 30, "the wait")
    await asyncio.sleep(5.5)  # more than its time
    assert not gate.begun
    gate.room.holders = 0
    gate.go_on.set()
    gate.budget.give_back(3_500_000)
    await gate.bench.runner.finished()
    assert gate.channel.acked == [1]


async def test_what_waits_for_its_turn_is_given_back_by_a_drain() -> None:
    gate = await crowded(4)
    gate.bench.runner.hold()
    gate.bench.runner.return_all()
    await until(lambda: len(gate.channel.given_back) == 2, 30, "those behind the one that waits for room")
    await gate.end()
    assert sorted(gate.channel.acked + gate.channel.given_back) == [1, 2, 3, 4]
    assert gate.budget.held_bytes == 0


async def test_delivery_that_became_stale_while_it_waited_is_not_handled() -> None:
    gate, lost = Gate(3_500_000), Channel()
    gate.admit(LONG_TEXT, b"gzip")
    await gate.begins(1)
    gate.admit(LONG_TEXT, b"gzip")
    gate.admit(LONG_TEXT, b"gzip", lost)
    await asyncio.sleep(0)
    lost.is_lost = True
    await gate.end()
    assert len(gate.begun) == 2
    assert lost.given_back == [3]


async def test_what_is_cut_short_while_it_waits_leaves_the_turn_to_others() -> None:
    gate = await crowded(3)
    gate.bench.runner.cut_short()
    await gate.bench.runner.finished()
    assert gate.channel.settled == 0
    assert gate.budget.held_bytes == 0
    assert gate.room.holders == 0
    async with asyncio.timeout(30):
        await gate.room.take_turn("queue", nullcontext, 30)


@pytest.mark.parametrize("outcome", [Retry(), ValueError("no")], ids=["retry", "failure"])
async def test_failure_takes_the_payload_off_the_budget(outcome: BaseException) -> None:
    gate = Gate()
    gate.outcome = outcome
    gate.admit(RECORDS)
    await gate.begins(1)
    await gate.end()
    assert gate.channel.settled == 1
    assert gate.budget.held_bytes == 0


async def test_batch_takes_what_fits_and_leaves_the_rest_for_the_next_in_order() -> None:
    gate = Gate(5_000_000, size=5)
    for _ in range(5):
        gate.admit(LONG_TEXT, b"gzip")
    await gate.begins(1)
    assert len(gate.begun[0]) == 2
    await gate.end()
    assert [len(batch) for batch in gate.begun] == [2, 2, 1]
    assert gate.channel.acked == [1, 2, 3, 4, 5]
    assert gate.budget.held_bytes == 0


async def test_bodies_of_a_batch_are_large_together() -> None:
    gate = Gate(10**9, size=100)
    body = EMPTY[:9] + b",".join([b"{}"] * 15_000) + b"]}"
    for _ in range(100):
        gate.admit(body)
    await gate.begins(1)
    assert gate.budget.held_bytes > 50_000_000
    await gate.end()
    assert gate.budget.held_bytes == 0
    assert len(gate.channel.acked) == 100


async def test_batch_of_bytes_needs_no_room_however_large_it_is() -> None:
    handlers = Handlers()
    taken: list[int] = []

    @handlers.consume_batch("queue", size=3, wait=60, retry=None)
    async def take(payloads: list[bytes]) -> None:
        taken.extend(map(len, payloads))

    bench, channel = at_work(handlers, decode_budget=DecodeBudget(ByteBudget(2_000_000))), Channel()
    for tag in range(1, 4):
        bench.runner.admit(Delivery(b"x" * 3_000_000, b"\0\0", b"\0\0", False, tag, channel))
    await bench.runner.finished()
    assert taken == [3_000_000] * 3
    assert channel.acked == [1, 2, 3]
