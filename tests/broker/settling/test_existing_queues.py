"""On a queue that somebody else has declared, every end of a delivery is the same as on one of ours.

Retries, requeues and dead letters are confirmed publishes, so they need no argument of the queue.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Queue, Reject, Requeue, Retry, RetryPolicy
from tests.broker.failing import dead_letters
from tests.broker.workers import running
from tests.harness.scales import FULL_ONLY
from tests.harness.waiting import until
from tests.rabbit.client import Client

ONCE_MORE = RetryPolicy(max_retries=1, delays=(0.1,), jitter=False)
UNDECODABLE = b"{"
EXECUTIONS = {"acks": 1, "fails": 2, "returns retry": 2, "returns requeue": 2, "rejects": 1, "takes too long": 2}
REASONS = {
    "fails": "failed",
    "returns retry": "rejected",
    "returns requeue": "rejected",
    "rejects": "rejected",
    "takes too long": "timeout",
    "undecodable": "undecodable",
}
KINDS: dict[str, dict[str, Any]] = {
    "classic": {},
    "quorum": {"arguments": {"x-queue-type": "quorum"}},
    "transient": {"durable": False},
    "lazy, bounded, with priorities": {
        "arguments": {"x-queue-mode": "lazy", "x-max-length": 100, "x-max-priority": 5, "x-message-ttl": 600_000}
    },
    "dead letters elsewhere": {
        "arguments": {"x-queue-type": "quorum", "x-dead-letter-exchange": "nowhere", "x-dead-letter-routing-key": "x"}
    },
    "single active consumer": {"arguments": {"x-queue-type": "quorum", "x-single-active-consumer": True}},
}
ALWAYS = ("classic", "quorum")


@pytest.mark.parametrize("kind", [kind if kind in ALWAYS else pytest.param(kind, marks=FULL_ONLY) for kind in KINDS])
async def test_every_end_of_a_delivery_is_that_of_a_queue_of_ours(
    kind: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, executed = Handlers(), Counter[str]()

    @handlers.consume(Queue(queue_name, declare="passive"), retry=ONCE_MORE, timeout=0.3)
    async def order(payload: dict, ctx: Context) -> object:  # type: ignore[type-arg]
        executed[payload["end"]] += 1
        match payload["end"]:
            case "acks":
                return Ack()
            case "returns retry":
                return Retry(after=0.1)
            case "returns requeue":
                return Requeue()
            case "rejects":
                return Reject("no")
            case "takes too long":
                await asyncio.sleep(30)
        raise ValueError("boom")

    admin.declare(queue_name, **KINDS[kind])
    admin.publish(queue_name, [*(json.dumps({"end": end}).encode() for end in EXECUTIONS), UNDECODABLE])
    async with running(broker_url, handlers):
        dead = await dead_letters(admin, queue_name, len(REASONS))
        await until(lambda: executed == EXECUTIONS, 10, "all executions")
    told = {
        "undecodable" if body.encode() == UNDECODABLE else json.loads(body)["end"]: letter.headers["mx-reason"]
        for body, letter in dead.items()
    }
    assert told == REASONS
    assert executed == EXECUTIONS
    assert admin.counts(queue_name).messages == 0, "the drain gives nothing back that was settled"
