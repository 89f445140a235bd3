"""Handlers that fail in the test's own event loop, the notes they take, and the dead letters that come of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mxworker import Context, Delivery, Handlers, Queue, RetryPolicy
from mxworker.api.settlement import Settlement
from tests.harness.copied import route_of
from tests.harness.faults import TO_BROKER, Rule
from tests.harness.frames import BASIC_NACK, BASIC_REJECT
from tests.harness.nowhere import Nowhere
from tests.harness.proxy import Proxy
from tests.harness.retries import FAST
from tests.harness.waiting import until
from tests.rabbit.client import Client

LADDER = RetryPolicy(max_retries=3, delays=(0.3, 0.6, 1.5), jitter=False)
STEPS_S = (0.3, 0.6, 1.5)


@dataclass
class Notes:
    """When each message was executed, as which attempt, by its body."""

    at: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    attempts: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    shown: dict[str, Delivery] = field(default_factory=dict)

    def take(self, ctx: Context) -> str:
        """Note an execution and return the body."""
        body = ctx.delivery.body.decode()
        self.at[body].append(time.monotonic())
        self.attempts[body].append(ctx.attempt)
        self.shown[body] = ctx.delivery
        return body

    @property
    def executions(self) -> int:
        """How many there were."""
        return sum(map(len, self.at.values()))

    def gaps_s(self, body: str) -> list[float]:
        """Return the seconds between the executions of one message."""
        return [later - earlier for earlier, later in pairwise(self.at[body])]


def noting(queue: str | Queue, notes: Notes, end: Callable[[], Settlement] | None = None, **options: Any) -> Handlers:
    """Return handlers whose only one takes a note and then fails with ValueError("boom"), or else returns `end()`.

    It retries fast, if the options do not say otherwise.
    """
    handlers = Handlers()

    @handlers.consume(queue, **{"retry": FAST, **options})
    async def order(body: str, ctx: Context) -> Settlement:
        notes.take(ctx)
        if end is None:
            raise ValueError("boom")
        return end()

    return handlers


@dataclass
class GivenBack:
    """Counts what goes back to its queue for an immediate redelivery."""

    rejects: Rule
    nacks: Rule

    @property
    def frames(self) -> int:
        """How many frames there were."""
        return self.rejects.hits + self.nacks.hits


def counting_what_goes_back(proxy: Proxy) -> GivenBack:
    rejects, nacks = (proxy.on(TO_BROKER, method, lambda frame: frame.raw) for method in (BASIC_REJECT, BASIC_NACK))
    return GivenBack(rejects, nacks)


async def dead_letters(admin: Client, queue: str, count: int, within_s: float = 60.0) -> dict[str, Delivery]:
    """Wait for exactly `count` messages in the dead-letter queue, and take them out."""
    name = f"{queue}.dlq"
    await until(
        lambda: admin.exists(name) and admin.counts(name).messages >= count, within_s, f"{count} dead letters in {name}"
    )
    drained = admin.drain(name)
    assert len(drained) == count
    return {
        message.body.decode(): Delivery(
            message.body,
            message.raw_properties,
            route_of(message.exchange.encode(), message.routing_key.encode()),
            message.redelivered,
            1,
            Nowhere(),
        )
        for message in drained
    }


@contextmanager
def removing(admin: Client, queue: str, policy: RetryPolicy) -> Iterator[None]:
    """Delete the retry queues of a policy afterwards."""
    yield
    for step_ms in policy.steps_ms:
        admin.delete(f"{queue}.retry.{step_ms}")
