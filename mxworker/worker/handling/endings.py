"""What a settlement means for a delivery, given how often it was tried already.

Pure, and the one place where attempts are bounded. What the broker is told, and how, is `settling`'s.

Every execution that a settlement ends is an attempt, whichever way the message is tried again. What the broker counts
is no attempt: it counts returns, and most of those are of messages that no handler has seen (a pause, a drain, a
prefetch that its bodies outgrew, the death of a worker).

Nothing a publisher can write into a header makes a message immortal, or keeps it from being executed once: an attempt
is at least 1, at most the last one, and this decision comes after the execution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mxworker.api.failures import Failure, FailureKind
from mxworker.api.retry_policy import DEFAULT_RETRY, RetryPolicy
from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement


@dataclass(frozen=True, slots=True)
class Done:
    """Ack it."""


@dataclass(frozen=True, slots=True)
class Again:
    """Let it be tried again at once, in execution number `attempt`."""

    attempt: int
    failure: Failure


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


Ending = Done | Again | Later | Dead

DONE = Done()


def ending(settlement: Settlement, attempt: int, policy: RetryPolicy | None, rng: random.Random) -> Ending:
    """Return how a delivery ends after execution number `attempt`; `policy` None means no retries with delay."""
    match settlement:
        case Ack():
            return DONE
        case Retry():
            return _later(settlement, attempt, policy, rng)
        case Requeue():
            return _again(settlement, attempt, policy)
        case Reject():
            return Dead(_failure_of(settlement, settlement.reason))
    raise AssertionError(f"the set of settlements is closed, and {type(settlement).__name__} is not in it")


def _later(settlement: Retry, attempt: int, policy: RetryPolicy | None, rng: random.Random) -> Ending:
    failure = _failure_of(settlement, settlement.reason)
    if policy is None or attempt >= policy.max_attempts:
        return Dead(failure)
    after_s = settlement.after_s
    step_ms = policy.step_ms(attempt, rng) if after_s is None else policy.step_after_ms(after_s)
    return Later(step_ms, attempt + 1, failure)


def _again(settlement: Requeue, attempt: int, policy: RetryPolicy | None) -> Ending:
    if attempt < (policy or DEFAULT_RETRY).max_attempts:
        return Again(attempt + 1, _failure_of(settlement, "asked to be requeued"))
    return Dead(_failure_of(settlement, f"asked to be requeued, in the last of {attempt} attempts"))


def _failure_of(settlement: Settlement, reason: str) -> Failure:
    return settlement.failure or Failure(FailureKind.REJECTED, "", reason or "no reason given")
