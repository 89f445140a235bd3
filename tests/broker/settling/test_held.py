"""Where the broker counts what goes back, a delivery of which no copy is taken is held, and lost by no limit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mxworker import Handlers, Queue, Reject, Retry
from mxworker.api.settlement import Settlement
from mxworker.backoff import Backoff
from mxworker.config.publisher import PublisherSettings
from mxworker.worker.handling import settling
from tests.broker.failing import counting_what_goes_back
from tests.broker.workers import running
from tests.harness.faults import TO_BROKER
from tests.harness.frames import BASIC_PUBLISH
from tests.harness.proxy import proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client

MESSAGES = 4
TRIES = 25 * MESSAGES  # more for each than RabbitMQ 4 lets it come back
LIMITS: dict[str, dict[str, int]] = {"of RabbitMQ 4": {}, "of the queue": {"x-delivery-limit": 1}}
FULL_WITH_ONE: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("in_batches", [False, True])
async def test_full_dead_letter_queue_costs_no_message_of_a_queue_that_counts_what_goes_back(
    limit: str,
    in_batches: bool,
    broker_url: str,
    queue_name: str,
    admin: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settling, "COPY", Backoff(base_s=0.01, cap_s=0.05))
    executed: Counter[str] = Counter()
    handlers, queue = Handlers(), Queue(queue_name, declare="passive")

    if in_batches:

        @handlers.consume_batch(queue, size=2, wait=0.01, retry=None)
        async def refuse_all(bodies: list[str]) -> list[Settlement]:
            executed.update(bodies)
            return [Reject("no"), Retry()][: len(bodies)]
    else:

        @handlers.consume(queue, retry=None)
        async def refuse(body: str) -> Settlement:
            executed[body] += 1
            return Reject("no") if executed.total() % 2 else Retry()

    arrived: list[str] = []

    def have_arrived() -> bool:
        arrived.extend(letter.body.decode() for letter in admin.drain(f"{queue_name}.dlq"))
        return len(arrived) >= MESSAGES

    bodies = [f'"{number}"' for number in range(MESSAGES)]
    admin.declare(queue_name, arguments={"x-queue-type": "quorum", **LIMITS[limit]})
    admin.declare(f"{queue_name}.dlq", arguments=FULL_WITH_ONE)
    admin.publish(f"{queue_name}.dlq", [b"0"])
    admin.publish(queue_name, [body.encode() for body in bodies])
    settings = PublisherSettings(attempts=1)
    async with proxy_to(broker_url) as proxy:
        goes_back = counting_what_goes_back(proxy)
        tries = proxy.on(TO_BROKER, BASIC_PUBLISH, lambda frame: frame.raw)
        async with running(proxy.url(broker_url), handlers, publisher=settings):
            await until(lambda: tries.hits >= TRIES, 60, "many tries")
            assert goes_back.frames == 0
            admin.purge(f"{queue_name}.dlq")
            await until(have_arrived, 60, "the dead letters")
        assert goes_back.frames == 0
    assert sorted(arrived) == sorted(bodies)
    assert sorted(executed.values()) == [1] * MESSAGES, "only the copies were tried again"
    assert admin.counts(queue_name).messages == 0
