"""What a settlement means for a delivery, given how often it was tried already.

Pure, and the one place where attempts are bounded. What the broker is told, and how, is `worker.settling`'s.

Nothing a publisher can write into a header makes a message immortal, or keeps it from being executed once: an attempt
is at least 1, at most the last one, and this decision comes after the execution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mxworker.failures import Failure, FailureKind
from mxworker.retry_policy import DEFAULT_RETRY, RetryPolicy
from mxworker.settlement import Ack, Reject, Requeue, Retry, Settlement


@dataclass(frozen=True, slots=True)
class Done:
    """Ack it."""


@dataclass(frozen=True, slots=True)
class Back:
    """Reject it back to the queue, for an immediate redelivery."""


@dataclass(frozen=True, slots=True)
class Later:
    """Put a copy into the retry queue of `step_ms`, for execution number `attempt`; then ack."""

    step_ms: int
    attempt: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Dead:
    """Put a copy with the facts into the dead-letter queue; then ack."""

    failure: Failure


Ending = Done | Back | Later | Dead

DONE = Done()
BACK = Back()


@dataclass(frozen=True, slots=True)
class History:
    """What a delivery tells of its past.

    `attempt`: the number of the execution that just ended, from 1. `redeliveries`: how often this copy of the message
    came back to its queue, by the broker's count; None when it was redelivered and the queue does not count. Not each
    was an execution: before RabbitMQ 4.3 a quorum queue also counts what was given back unprocessed (a drain, a pause,
    a prefetch that its bodies outgrew).
    """

    attempt: int
    redeliveries: int | None = 0


def ending(settlement: Settlement, history: History, policy: RetryPolicy | None, rng: random.Random) -> Ending:
    """Return how a delivery with `history` ends; `policy` None means no retries with delay."""
    match settlement:
        case Ack():
            return DONE
        case Retry():
            return _later(settlement, history, policy, rng)
        case Requeue():
            return _back(settlement, history, policy, rng)
        case Reject():
            return Dead(_failure_of(settlement, settlement.reason))
    raise AssertionError(f"the set of settlements is closed, and {type(settlement).__name__} is not in it")


def _later(settlement: Retry, history: History, policy: RetryPolicy | None, rng: random.Random) -> Ending:
    failure = _failure_of(settlement, settlement.reason)
    if policy is None or history.attempt >= policy.max_attempts:
        return Dead(failure)
    after_s = settlement.after_s
    step_ms = policy.step_ms(history.attempt, rng) if after_s is None else policy.step_after_ms(after_s)
    return Later(step_ms, history.attempt + 1, failure)


def _back(settlement: Requeue, history: History, policy: RetryPolicy | None, rng: random.Random) -> Ending:
    """Bound what comes back at once by the broker's count; where there is none, only the first time is immediate.

    The count may be higher than the number of requeues, see `History`: a bound that is met early is still one, and no
    other counter outlives a worker that dies.
    """
    if history.redeliveries is None:
        retry = Retry(reason="asked to be requeued again")
        retry.failure = settlement.failure
        return _later(retry, history, policy, rng)
    if history.redeliveries < (policy or DEFAULT_RETRY).max_retries:
        return BACK
    already = f"was delivered again {history.redeliveries} times already"
    return Dead(_failure_of(settlement, f"asked to be requeued, but {already}"))


def _failure_of(settlement: Settlement, reason: str) -> Failure:
    return settlement.failure or Failure(FailureKind.REJECTED, "", reason or "no reason given")
