"""What kills workers is set aside, confirmed, with the facts of its last death, and only then acked."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from mxworker import Delivery, Handlers, Queue
from mxworker.api.context import WorkerResources
from mxworker.api.handlers import compile_handlers
from mxworker.api.message import Content
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.board.suspects import Death
from mxworker.errors import (
    ConnectionLost,
    EncodeError,
    MessageTooLarge,
    PublishNacked,
    PublishUnconfirmed,
    TopologyRefused,
    Unroutable,
)
from mxworker.wire.message_keys import MessageKeys
from mxworker.worker.handling.copy_publisher import CopyPublisher, Repair
from mxworker.worker.handling.settling import Settling
from tests.harness.copied import properties_on_wire, route_of
from tests.harness.counts import counted
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Channel, at_work
from tests.harness.waiting import until
from tests.rabbit.raw import raw_properties

STACK = 'Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n  File "app.py"'
SEGFAULT = Death(-11, 50_000_000, 1.5, 1_700_000_000, STACK)
QUARANTINE, DEAD_LETTERS = "orders.quarantine", "orders.dlq"
CONFIRMED = None


@dataclass
class Ward:
    """A settling with a message that has killed three workers, the last time alone."""

    publishing: Publishing
    queue: Queue = field(default_factory=lambda: Queue("orders"))
    declare: Repair | None = None
    death: Death = SEGFAULT
    channel: Channel = field(default_factory=Channel)
    may_hold: bool = False

    def __post_init__(self) -> None:
        handlers = Handlers()

        @handlers.consume(self.queue)
        async def order(body: bytes) -> None:
            pass

        (handler,) = compile_handlers(handlers)
        self.slot = Board(1).slot(1)
        publisher: Any = self.publishing
        copies = CopyPublisher(handler.queue, publisher, None, self.declare)
        self.settling = Settling(
            handler, self.slot.rows.consumer("orders", "order"), copies, Hasty(), may_hold=lambda: self.may_hold
        )
        self.suspects = self.slot.suspects
        for _ in range(3):
            self.suspects.enter([1], 1, self.death)

    async def commit(self, raw: bytes = raw_properties(message_id=b"m-1")) -> bool:
        convict = self.suspects.find(1)
        assert convict is not None
        delivery = Delivery(b"body", raw, route_of(b"shop", b"new"), True, 1, self.channel, time.monotonic())
        return await self.settling.quarantine(delivery, convict, self.suspects.stack(convict.death))

    @property
    def targets(self) -> list[str]:
        return [queue for _, queue in self.publishing.published]

    def received(self, index: int = 0) -> Delivery:
        """Return what was published as a consumer of it gets it."""
        content: Content = self.publishing.published[index][0]
        return Delivery(content.body, properties_on_wire(content), route_of(b"", b"x"), False, 1, self.channel)

    def headers(self, index: int = 0) -> dict[str, Any]:
        """Return the headers of what was published."""
        return self.received(index).headers


async def test_copy_has_the_facts_and_the_original_is_acked_after_it() -> None:
    ward = Ward(Publishing(CONFIRMED))
    settled_before: list[int] = []
    ward.publishing.before_each = lambda: settled_before.append(ward.channel.settled)
    assert await ward.commit()
    assert ward.targets == [QUARANTINE]
    assert settled_before == [0]
    assert ward.channel.acked == [1]
    assert counted(ward.slot, Outcome.QUARANTINE) == 1
    (content, _) = ward.publishing.published[0]
    assert (content.body, content.message_id) == (b"body", b"m-1")
    headers = ward.headers()
    assert headers["mx-kills"] == 3
    assert headers["mx-signal"] == "SIGSEGV"
    assert "mx-exit-code" not in headers
    assert headers["mx-peak-rss-bytes"] == 50_000_000
    assert headers["mx-stack"] == STACK
    assert headers["mx-reason"] == "killed"
    assert (headers["mx-queue"], headers["mx-handler"]) == ("orders", "order")
    assert (origin := ward.received().origin) is not None
    assert (origin.exchange, origin.routing_key) == ("shop", "new")
    assert headers["mx-failed-at"].timestamp() == 1_700_000_000
    assert "mx-attempt" not in headers


@pytest.mark.parametrize(
    ("death", "facts"),
    [
        (Death(0, 1, 1.0, 1), {"mx-exit-code": 0, "mx-reason": "killed", "mx-stack": ""}),
        (Death(-6, 1, 1.0, 1, "x" * 4000, is_hang=True), {"mx-signal": "SIGABRT", "mx-reason": "hung"}),
        (Death(-9, 1, 1.0, 1, "a\x07b\nc"), {"mx-signal": "SIGKILL", "mx-stack": "a\\x07b\nc"}),
    ],
)
async def test_facts_are_those_of_the_last_death_printable_and_bounded(death: Death, facts: dict[str, object]) -> None:
    ward = Ward(Publishing(CONFIRMED), death=death)
    assert await ward.commit()
    headers = ward.headers()
    assert headers.items() >= facts.items()
    assert len(headers["mx-stack"]) <= 2048


MISSING, NACKED = Unroutable("no queue"), PublishNacked("full")
TOO_LARGE = MessageTooLarge("17 MiB")
DECLARED = "declared"
WAYS = {
    "declared when it is first needed": ([MISSING, CONFIRMED], Queue("orders"), [QUARANTINE] * 2, "acked"),
    "missing, and not ours to declare": (
        [MISSING, CONFIRMED],
        Queue("orders", declare="passive"),
        [QUARANTINE, DEAD_LETTERS],
        "acked",
    ),
    "missing, as the dead-letter queue": (
        [MISSING],
        Queue("orders", declare="passive"),
        [QUARANTINE, DEAD_LETTERS],
        "given_back",
    ),
    "missing, and there is no dead-letter queue": (
        [MISSING],
        Queue("orders", declare="off", dead_letter=False),
        [QUARANTINE],
        "given_back",
    ),
    "no dead-letter queue needed": ([CONFIRMED], Queue("orders", dead_letter=False), [QUARANTINE], "acked"),
    "refused": ([NACKED], Queue("orders"), [QUARANTINE], "given_back"),
    "unconfirmed": ([PublishUnconfirmed("lost")], Queue("orders"), [QUARANTINE], "given_back"),
    "name too long": (
        [EncodeError("256 bytes"), EncodeError("256 bytes"), CONFIRMED],
        Queue("orders"),
        [QUARANTINE, QUARANTINE, DEAD_LETTERS],
        "acked",
    ),
    "too large for any copy": ([TOO_LARGE], Queue("orders"), [QUARANTINE] * 2, "rejected"),
    "too large, and the broker may drop it": (
        [TOO_LARGE],
        Queue("orders", dead_letter=False),
        [QUARANTINE] * 2,
        "given_back",
    ),
}


@pytest.mark.parametrize("case", WAYS)
async def test_convict_is_acked_once_a_copy_is_kept_and_goes_back_otherwise(case: str) -> None:
    outcomes, queue, targets, way = WAYS[case]

    async def declare() -> None:
        return None

    ward = Ward(Publishing(*outcomes), queue, declare if queue.declare == "ensure" else None)
    is_done = await ward.commit()
    assert ward.targets == targets
    assert getattr(ward.channel, way) == [1]
    assert ward.channel.settled == 1
    assert is_done is (way != "given_back")
    assert counted(ward.slot, Outcome.QUARANTINE) == is_done
    assert all(ward.headers(index)["mx-kills"] == 3 for index in range(len(targets)))


async def test_convict_is_held_until_a_copy_is_kept_where_the_broker_may_count_what_goes_back() -> None:
    ward = Ward(Publishing(*[NACKED] * 30, CONFIRMED), Queue("orders", declare="passive"), may_hold=True)
    assert await ward.commit()
    assert ward.targets == [QUARANTINE] * 31
    assert ward.channel.acked == [1]
    assert ward.channel.settled == 1


@pytest.mark.parametrize("refusal", [TopologyRefused("other arguments"), ConnectionLost("gone")])
async def test_quarantine_that_cannot_be_declared(refusal: Exception) -> None:
    async def declare() -> None:
        raise refusal

    ward = Ward(Publishing(MISSING, CONFIRMED), declare=declare)
    is_refused = isinstance(refusal, TopologyRefused)
    assert await ward.commit() is is_refused
    assert ward.targets == ([QUARANTINE, DEAD_LETTERS] if is_refused else [QUARANTINE])


async def test_message_with_headers_that_cannot_be_copied_is_kept_with_body_and_facts() -> None:
    ward = Ward(Publishing(CONFIRMED))
    assert await ward.commit(raw_properties(headers=b"\x00\x00\x00\x03abc"))
    assert ward.headers()["mx-kills"] == 3
    assert ward.publishing.published[0][0].body == b"body"


async def test_cancelled_it_leaves_the_original_unsettled() -> None:
    ward = Ward(Publishing(asyncio.Event()))
    task = asyncio.create_task(ward.commit())
    await until(lambda: ward.targets, 5)
    task.cancel()
    await asyncio.wait({task})
    assert ward.channel.settled == 0


# ---- from the delivery to the quarantine


@pytest.mark.parametrize(
    ("kills", "alone", "runs"), [(3, True, False), (2, True, True), (3, False, True), (5, False, True)]
)
@pytest.mark.parametrize("in_batches", [False, True])
async def test_convict_is_not_executed_any_more_and_all_others_are(
    kills: int, alone: bool, runs: bool, in_batches: bool
) -> None:
    handlers = Handlers()
    executed: list[bytes] = []

    if in_batches:

        @handlers.consume_batch("orders", size=4, wait=0.01)
        async def take(bodies: list[bytes]) -> None:
            executed.extend(bodies)
    else:

        @handlers.consume("orders")
        async def order(body: bytes) -> None:
            executed.append(body)

    publishing: Any = Publishing(CONFIRMED)
    bench, channel = at_work(handlers, resources=WorkerResources(publishing, publishing, publishing)), Channel()
    key = MessageKeys(bench.slot.secret, "orders").key(b"\0\0", route_of(b"", b"orders"), b"killer")
    for number in range(1, kills + 1):
        bench.slot.suspects.enter([key, 5], key if alone and number == kills else None, SEGFAULT)
    for tag, body in enumerate((b"before", b"killer", b"after"), 1):
        bench.runner.admit(Delivery(body, b"\0\0", route_of(b"", b"orders"), True, tag, channel))
    await until(lambda: len(channel.acked) >= 2, 5)
    bench.give_turn()
    await until(lambda: len(channel.acked) == 3, 5)
    await bench.runner.finished()
    await asyncio.sleep(0)
    assert set(executed) == ({b"before", b"killer", b"after"} if runs else {b"before", b"after"})
    assert [queue for _, queue in publishing.published] == ([] if runs else [QUARANTINE])
    assert bench.count(Outcome.QUARANTINE) == (not runs)
    assert bench.slot.suspects.find(key) is None, "put back by an operator, it has new tries"


async def test_convict_whose_copy_is_not_confirmed_stays_one() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(body: bytes) -> None:
        raise AssertionError("it is not to be executed")

    publishing: Any = Publishing(NACKED)
    resources = WorkerResources(publishing, publishing, publishing)
    bench, channel = at_work(handlers, resources=resources, rng=Hasty()), Channel()
    key = MessageKeys(bench.slot.secret, "orders").key(b"\0\0", route_of(b"", b"orders"), b"killer")
    for _ in range(3):
        bench.slot.suspects.enter([key], key, SEGFAULT)
    bench.runner.admit(Delivery(b"killer", b"\0\0", route_of(b"", b"orders"), True, 1, channel))
    await until(lambda: channel.given_back == [1], 5)
    assert bench.slot.suspects.find(key) is not None
