"""A handler's circuit breaker at work: what it takes for a failure, what it does then, and its end in a drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mxworker import CircuitBreaker, Handlers
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement
from mxworker.worker.handling.breaker_driver import BreakerDriver
from tests.harness.runners import Channel, at_work, deliveries
from tests.harness.waiting import until

SOON_S = 60.0


def ended(settlement: Settlement, kind: FailureKind) -> Settlement:
    """Return a settlement that mxworker chose, for a failure of a kind."""
    settlement.failure = Failure(kind, "", "")
    return settlement


FAILURES: list[Callable[[], Settlement]] = [
    Retry,
    Requeue,
    lambda: ended(Retry(), FailureKind.FAILED),
    lambda: ended(Reject(), FailureKind.TIMEOUT),
    lambda: ended(Ack(), FailureKind.LOST),
]
NO_NEWS: list[Callable[[], Settlement]] = [Reject, lambda: ended(Reject(), FailureKind.UNDECODABLE)]


class Driven:
    """A driver of a circuit breaker, and what it did."""

    def __init__(self, settings: CircuitBreaker) -> None:
        self.done: list[str] = []
        self.loop = asyncio.get_running_loop()
        self.driver = BreakerDriver(
            settings,
            "queue",
            self.loop,
            lambda reason: self.done.append(f"pause for {reason}"),
            lambda reason: self.done.append(f"resume for {reason}"),
            lambda most: self.done.append(f"prefetch {most}"),
            lambda most: self.done.append(f"run {most}"),
        )

    def note(self, *settlements: Settlement) -> None:
        """Have deliveries end that were started just now."""
        for settlement in settlements:
            self.driver.note(settlement, self.loop.time())

    async def rested(self) -> None:
        """Wait for the next trial, and forget what led to it."""
        await until(lambda: self.done[-1:] == ["resume for circuit breaker"], SOON_S)
        self.done.clear()


@pytest.mark.parametrize("failure", FAILURES)
async def test_failure_pauses_the_queue(failure: Callable[[], Settlement]) -> None:
    driven = Driven(CircuitBreaker(min_deliveries=1, pause=30))
    driven.note(failure())
    assert driven.done == ["pause for circuit breaker"]


@pytest.mark.parametrize("refused", NO_NEWS)
async def test_refused_message_does_not_pass_a_trial(refused: Callable[[], Settlement]) -> None:
    driven = Driven(CircuitBreaker(min_deliveries=1, pause=0.02))
    driven.note(Retry())
    await driven.rested()
    driven.note(refused())
    assert driven.done == []
    driven.note(Ack())
    assert driven.done == ["run None", "prefetch None"]


async def test_trial_prefetches_no_more_than_it_tries() -> None:
    """What waits when it fails is given back, and before RabbitMQ 4.3 that counts toward the delivery limit."""
    driven = Driven(CircuitBreaker(min_deliveries=1, pause=0.02, trial=3))
    driven.note(Retry())
    await until(lambda: len(driven.done) == 4, SOON_S)
    assert driven.done == ["pause for circuit breaker", "run 3", "prefetch 3", "resume for circuit breaker"]


@pytest.mark.parametrize("refused", NO_NEWS)
async def test_refused_messages_are_not_among_those_of_which_too_many_fail(refused: Callable[[], Settlement]) -> None:
    driven = Driven(CircuitBreaker(failure_ratio=0.5, min_deliveries=4, pause=30))
    driven.note(*(refused() for _ in range(20)))
    driven.note(Retry(), Ack(), Retry())
    assert driven.done == [], "three are not enough"
    driven.note(Ack())
    assert driven.done == ["pause for circuit breaker"]


async def test_breaker_of_a_handler_that_is_held_does_nothing_any_more() -> None:
    handlers = Handlers()
    pause_s = 3.0
    go_on = asyncio.Event()

    @handlers.consume("queue", retry=None, circuit_breaker=CircuitBreaker(min_deliveries=1, pause=pause_s))
    async def fail(body: bytes) -> None:
        if body == b"slow":
            await go_on.wait()
        raise ConnectionError

    for bodies, what_was_done in (((b"", b"slow"), ["pause"]), ((b"slow",), [])):
        runner = at_work(handlers).runner
        done: list[str] = []
        runner.breaker.steer(
            lambda reason, done=done: done.append("pause"),
            lambda reason, done=done: done.append("resume"),
            lambda most: None,
        )
        go_on.clear()
        for body in bodies:
            runner.admit(*deliveries(Channel(), 1, body))
        await until(lambda runner=runner: runner.running == 1, SOON_S)
        assert done == what_was_done
        runner.hold()
        go_on.set()
        await runner.finished()
        await asyncio.sleep(1.5 * pause_s)  # for what must not happen
        assert done == what_was_done
