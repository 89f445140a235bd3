"""A queue whose handler fails again and again is left alone, tried, and consumed again; nothing is lost meanwhile."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mxworker import CircuitBreaker, Handlers, Queue, RetryPolicy
from tests.broker.workers import running
from tests.harness.logged import events
from tests.harness.waiting import until
from tests.rabbit.client import Client

SWITCH = CircuitBreaker(failure_ratio=0.5, window=10, min_deliveries=5, pause=0.6)
PATIENT = RetryPolicy(max_retries=50, delays=(0.1,), jitter=False)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mxworker.worker.handling.breaker_driver")


@pytest.mark.parametrize("single_active_consumer", [False, True])
async def test_failing_handler_is_left_alone_tried_and_let_work_again(
    single_active_consumer: bool, broker_url: str, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    is_down = True
    failed_at: list[float] = []
    handled: list[str] = []
    loop = asyncio.get_running_loop()

    queue = Queue(queue_name, single_active_consumer=single_active_consumer)

    @handlers.consume(queue, concurrency=4, prefetch=20, retry=PATIENT, circuit_breaker=SWITCH)
    async def call_bank(body: str) -> None:
        if is_down:
            failed_at.append(loop.time())
            raise ConnectionError("the bank does not answer")
        handled.append(body)

    bodies = [str(number) for number in range(40)]
    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [body.encode() for body in bodies])
        await until(lambda: events(caplog, "circuit_breaker_opened", queue=queue_name), 10, "the breaker to open")
        await until(lambda: events(caplog, "circuit_breaker_trial", deliveries=1), 10, "the trial")
        await until(lambda: len(events(caplog, "circuit_breaker_opened")) == 2, 10, "the trial to fail")
        consumer = worker.service.parts.consumers[0]
        await until(lambda: not consumer.is_consuming, 5, "the pause")
        before = len(failed_at)
        is_down = False
        await until(lambda: events(caplog, "circuit_breaker_closed", queue=queue_name), 10, "the trial to pass")
        opened, trial = (events(caplog, f"circuit_breaker_{what}")[1]["created"] for what in ("opened", "trial"))
        assert trial - opened > 1.5 * SWITCH.pause, "the second pause is longer than the first"
        assert len(failed_at) == before
        await until(lambda: len(handled) == 40, 15, "all to be handled")
        subscription = consumer.subscription
        assert subscription is not None
        await until(lambda: subscription.prefetch == 20, 5, "the end of the trial's prefetch")
    assert sorted(handled) == sorted(bodies)
    assert len(failed_at) < 40, "a queue that was left alone was not"
    admin.delete(f"{queue_name}.retry.100")


async def test_trials_that_fail_again_and_again_let_no_message_die_that_was_never_tried(
    broker_url: str, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Before RabbitMQ 4.3 what is given back comes closer to the delivery limit of its queue each time."""
    handlers = Handlers()
    tried: set[str] = set()
    limit = 5

    @handlers.consume(
        Queue(queue_name, arguments={"x-delivery-limit": limit}),
        concurrency=4,
        prefetch=30,
        retry=PATIENT,
        circuit_breaker=CircuitBreaker(min_deliveries=1, pause=0.05),
    )
    async def call_bank(body: str) -> None:
        tried.add(body)
        raise ConnectionError("the bank does not answer")

    async with running(broker_url, handlers):
        admin.publish(queue_name, [str(number).encode() for number in range(200)])
        await until(lambda: len(events(caplog, "circuit_breaker_opened")) == limit + 5, 20, "trials to fail")
    assert len(tried) < 200
    assert admin.counts(f"{queue_name}.dlq").messages == 0
    admin.delete(f"{queue_name}.retry.100")


async def test_refused_messages_do_not_trip_it(
    broker_url: str, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, retry=None, circuit_breaker=SWITCH)
    async def take(payload: dict[str, int]) -> None:
        raise AssertionError

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"not json"] * 30)
        await until(lambda: admin.counts(f"{queue_name}.dlq").messages == 30, 10, "the dead letters")
    assert "circuit breaker" not in caplog.text
