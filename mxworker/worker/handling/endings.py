"""The meaning of a settlement for a delivery, by the number of its attempt.

Pure, and the only module that bounds attempts. `settling` carries an ending out.

Every execution that a settlement ends is an attempt, by whichever way the message is tried again. The broker's counts
are no attempts: the broker counts returns, and most of them are of messages that did not reach a handler (a pause, a
drain, a prefetch whose bodies are too large, the death of a worker).

No header of a publisher can make a message be tried without end, or keep it from one execution: an attempt is at least
1 and at most the last one, and this decision comes after the execution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mxworker.api.failures import Failure, FailureKind
from mxworker.api.retry_policy import DEFAULT_RETRY, RetryPolicy
from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement


@dataclass(frozen=True, slots=True)
class Done:
    """Ack the delivery."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try the message again at once, in execution number `attempt`."""

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
    """Return the ending of a delivery after execution number `attempt`. With `policy` None no retry is delayed."""
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
