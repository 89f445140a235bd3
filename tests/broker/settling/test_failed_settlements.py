"""What fails at the end of a delivery costs that delivery alone: the same worker goes on with all other messages."""

from __future__ import annotations

from typing import Any

import pytest

from mxworker import Handlers, Queue, Reject, Retry
from mxworker.amqp.protocol.acks import AckLedger
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import InvariantError
from tests.broker.failing import dead_letters
from tests.broker.workers import running
from tests.harness.waiting import until
from tests.rabbit.client import Client

SOON_S = 60.0


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


ENDS: dict[str, Any] = {
    "an exception as a reason": lambda: Reject(ValueError("no")),
    "a reason without a text": lambda: Reject(Mute()),
    "the last attempt": lambda: Retry(reason=object),
    "no text": Mute,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
}


async def test_whatever_is_raised_becomes_a_dead_letter_with_the_facts(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    handled: list[str] = []

    @handlers.consume(queue_name, retry=None)
    def in_a_thread(body: str) -> None:
        if body in ENDS:
            raise ENDS[body]()
        handled.append(body)

    @handlers.consume(f"{queue_name}.other")
    async def other(body: str) -> None:
        handled.append(body)

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [*(body.encode() for body in ENDS), b"good"])
        admin.publish(f"{queue_name}.other", [b"beside"])
        dead = await dead_letters(admin, queue_name, len(ENDS))
        await until(lambda: sorted(handled) == ["beside", "good"], SOON_S)
        await until(lambda: worker.count(Outcome.REJECT) == len(ENDS), SOON_S)
    assert dead.keys() == ENDS.keys()
    assert dead["an exception as a reason"].headers["mx-error"] == "ValueError: no"
    assert dead["a reason without a text"].headers["mx-error"] == "Mute: (its text cannot be shown)"
    assert dead["no text"].headers["mx-error-type"] == "Mute"


@pytest.mark.parametrize("ways", [("ack",), ("ack", "reject"), ("ack", "reject", "give_back")])
async def test_message_whose_settlement_fails_is_kept_and_the_worker_goes_on(
    ways: tuple[str, ...], broker_url: str, queue_name: str, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is in the ledger, for the first delivery alone; where nothing else works its channel is replaced."""
    broken: list[tuple[object, int]] = []
    for way in ways:
        whole = getattr(AckLedger, way)

        def settle(self: AckLedger, tag: int, *more: Any, whole: Any = whole) -> int:
            if not broken:
                broken.append((self, tag))
            if (self, tag) == broken[0]:
                raise InvariantError("a bug of ours")
            return int(whole(self, tag, *more))

        monkeypatch.setattr(AckLedger, way, settle)
    handlers = Handlers()
    handled: list[str] = []

    @handlers.consume(Queue(queue_name, dead_letter=False))
    async def take(body: str) -> None:
        handled.append(body)

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"first"])
        await until(lambda: handled.count("first") == 2, SOON_S, "it to be delivered again")
        admin.publish(queue_name, [b"second"])
        await until(lambda: handled.count("second") == 1, SOON_S, "the next")
    assert admin.counts(queue_name).messages == 0


async def test_what_nothing_keeps_leaves_a_line(
    broker_url: str, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()

    @handlers.consume(Queue(queue_name, dead_letter=False), retry=None)
    async def fail(payload: dict[str, Any]) -> None:
        raise ValueError("no")

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"{}", b"not json"])
        await until(lambda: worker.count(Outcome.REJECT) + worker.count(Outcome.DECODE_ERROR) == 2, SOON_S)
    assert admin.counts(queue_name).messages == 0
    gone = [line for line in caplog.messages if "it is gone, since the queue has no dead-letter queue" in line]
    assert len(gone) == 2
    assert any("failed on message" in line and line.endswith("ValueError: no") for line in gone)
    assert any("cannot decode message" in line for line in gone)
