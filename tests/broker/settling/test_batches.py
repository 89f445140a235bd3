"""Batches on a real broker: few acks, a settlement for each delivery, and nothing lost whatever happens in between."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from signal import SIGKILL, SIGTERM
from typing import Any

from mxworker import Context, Handlers, Reject, Requeue, Retry
from mxworker.api.attempts import attempt_of
from mxworker.board.metrics_layout import Outcome
from tests.broker.apps import Recorded
from tests.broker.workers import running
from tests.harness import ledger
from tests.harness.faults import TO_BROKER
from tests.harness.frames import BASIC_ACK
from tests.harness.proxy import proxy_to
from tests.harness.retries import FAST
from tests.harness.waiting import until, wait_until
from tests.rabbit.client import Client

A_WHILE_S = 60.0  # longer than any test: a batch that is not full waits

SIZE, CONCURRENCY = 50, 2
PREFETCH = 2 * SIZE * CONCURRENCY
UNDECIDED = """
    import asyncio
    import os
    import random

    from mxworker import Handlers, Queue, Reject, Requeue, Retry
    from tests.harness.ledger import Ledger
    from tests.harness.retries import FAST

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume_batch(Queue(os.environ["QUEUE"]), size=50, wait=0.05, concurrency=2, retry=FAST)
    async def decide(message_ids: list[str]) -> list[object]:
        for message_id in message_ids:
            ledger.start(message_id)
        await asyncio.sleep(random.uniform(0, 0.1))
        possible = [None, Retry(), Reject("no"), Requeue()]
        verdicts = random.choices(possible, weights=[70, 10, 10, 10], k=len(message_ids))
        for message_id, verdict in zip(message_ids, verdicts):
            if verdict is None:
                ledger.finish(message_id)
        return verdicts
"""


async def test_batch_is_acked_by_one_frame(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    sizes: list[int] = []

    @handlers.consume_batch(queue_name, size=100, wait=A_WHILE_S)
    async def take(payloads: list[bytes]) -> None:
        sizes.append(len(payloads))

    async with proxy_to(broker_url) as proxy:
        acks = proxy.on(TO_BROKER, BASIC_ACK, lambda frame: frame.raw)
        async with running(proxy.url(broker_url), handlers) as worker:
            admin.publish(queue_name, [b""] * 1000)
            await until(lambda: worker.count(Outcome.ACK) == 1000, 20, "all")
    assert sizes == [100] * 10
    assert acks.hits <= 10


async def test_each_delivery_of_a_batch_ends_as_its_settlement_says(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    batches: list[list[tuple[str, int]]] = []

    @handlers.consume_batch(queue_name, size=5, wait=0.2, retry=FAST)
    async def settle(payloads: list[str], ctx: Context) -> list[Any]:
        if not batches:
            batches.append([(payload, 1) for payload in payloads])
            return [None, Retry(), Reject("no"), Requeue()]
        batches.append([(payload, attempt_of(one, 9)) for payload, one in zip(payloads, ctx.deliveries, strict=True)])
        return [None] * len(payloads)

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"done", b"later", b"never", b"again", b"\xff"])
        await until(lambda: worker.count(Outcome.ACK) == 3, 20, "all but the dead letters")
        await until(lambda: admin.counts(f"{queue_name}.dlq").messages == 2, 10, "the dead letters")
    assert batches[0] == [("done", 1), ("later", 1), ("never", 1), ("again", 1)]
    assert sorted(one for batch in batches[1:] for one in batch) == [("again", 2), ("later", 2)]
    reasons = {message.body: message.headers["mx-reason"] for message in admin.drain(f"{queue_name}.dlq")}
    assert reasons == {b"never": "rejected", b"\xff": "undecodable"}
    assert [worker.count(outcome) for outcome in Outcome] == [3, 1, 1, 1, 1, 0, 0, 0]


async def test_batch_that_is_not_full_goes_back_when_the_worker_leaves(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    done: list[str] = []

    @handlers.consume_batch(queue_name, size=100, wait=A_WHILE_S)
    async def take(payloads: list[str]) -> None:
        done.extend(payloads)

    bodies = [str(number) for number in range(250)]
    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [body.encode() for body in bodies])
        await until(lambda: len(done) == 200 and worker.service.runners[0].waiting == 50, 20, "two full batches")
    left = [message.body.decode() for message in admin.drain(queue_name)]
    assert len(left) == 50
    assert sorted(done + left) == sorted(bodies)


def test_settlements_at_random_under_drains_and_kills_add_up(
    recorded: Recorded, queue_name: str, rng: random.Random, scale: Callable[[int, int], int], admin: Client
) -> None:
    messages, drains, kills = scale(2_000, 20_000), scale(2, 8), scale(3, 12)
    steps = [SIGTERM] * drains + [SIGKILL] * kills
    rng.shuffle(steps)
    done = 0
    while done < len(steps):
        with recorded.service("--workers=2", source=UNDECIDED) as service:
            service.wait_ready()
            for step in steps[done:]:
                due = recorded.handled + rng.randrange(messages // len(steps))  # each new one is at least started
                recorded.publish(messages // len(steps))
                wait_until(lambda due=due: recorded.handled >= due and service.workers(), 60, f"{due} records")
                done += 1
                if step is SIGKILL:
                    service.kill_worker(rng)
                    continue
                service.signal(SIGTERM)
                assert service.wait_exit(40) == 0
                break
    with recorded.service("--workers=2", "--burst", source=UNDECIDED) as service:
        assert service.wait_exit(60) == 0
    ends = _ends(recorded, admin)
    extra = ends.total() - len(ends)
    print(f"{drains} drains, {kills} kills: {len(ends)} messages ended, {extra} of at most {PREFETCH * kills} twice")
    assert ends.keys() == set(recorded.ids)
    assert extra <= PREFETCH * kills
    _assert_empty(queue_name, admin)


def test_settlements_at_random_under_drains_alone_are_exact(
    recorded: Recorded, queue_name: str, rng: random.Random, scale: Callable[[int, int], int], admin: Client
) -> None:
    messages, drains = scale(1_000, 10_000), scale(3, 10)
    for _ in range(drains):
        due = recorded.handled + rng.randrange(messages // drains)  # each new one is at least started
        recorded.publish(messages // drains)
        with recorded.service("--workers=2", source=UNDECIDED) as service:
            service.wait_ready()
            wait_until(lambda due=due: recorded.handled >= due, 60, "the moment")
            service.signal(SIGTERM)
            assert service.wait_exit(40) == 0
    with recorded.service("--workers=2", "--burst", source=UNDECIDED) as service:
        assert service.wait_exit(60) == 0
    ends = _ends(recorded, admin)
    assert ends == Counter(recorded.ids)
    _assert_empty(queue_name, admin)


def _ends(recorded: Recorded, admin: Client) -> Counter[str]:
    """Return how often each message came to an end: acked by the handler, or a dead letter."""
    ends = Counter(record.id for record in ledger.read(recorded.path) if record.event is ledger.FINISH)
    ends.update(message.body.decode() for message in admin.drain(f"{recorded.queue}.dlq"))
    return ends


def _assert_empty(queue: str, admin: Client) -> None:
    """Check that nothing is left to be done."""
    names = [queue, *(f"{queue}.retry.{step_ms}" for step_ms in FAST.steps_ms)]
    assert [admin.counts(name).messages for name in names] == [0] * len(names)
