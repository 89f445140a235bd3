"""How a delivery ends: whatever handlers say and publishers write, each message is executed, and not for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxworker import Ack, Delivery, Reject, Requeue, Retry, RetryPolicy
from mxworker.api.attempts import attempt_of
from mxworker.api.delivery import source_of
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.settlement import Settlement
from mxworker.wire.field_table import encode
from mxworker.wire.own_headers import ATTEMPT_HEADER
from mxworker.worker.handling.copies import retry_copy
from mxworker.worker.handling.endings import DONE, Again, Dead, Ending, Later, ending
from tests.harness.copied import received
from tests.rabbit.raw import raw_properties

RNG = random.Random(1)
POLICY = RetryPolicy(max_retries=3, delays=(1, 5, 25), jitter=False)
FAILURE = Failure(FailureKind.FAILED, "ValueError", "no such order")
NO_REASON = Failure(FailureKind.REJECTED, "", "no reason given")
forged_counts = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, 3, 4, -1, 10**9, True, "1", "three", None, 2.5, [1], {"mx-attempt": 1}]),
)
policies = st.one_of(
    st.none(),
    st.builds(RetryPolicy, max_retries=st.integers(0, 6), delays=st.just((0.1, 0.2)), jitter=st.booleans()),
)
settlements = st.sampled_from([Retry, Requeue, lambda: Retry(0.2), lambda: Retry(10**6)])


def failed(settlement: Settlement) -> Settlement:
    """Return a settlement as mxworker chooses it for a failure."""
    settlement.failure = FAILURE
    return settlement


# ---- one ending


@pytest.mark.parametrize("policy", [POLICY, None], ids=["retries", "no retries"])
@pytest.mark.parametrize("attempt", [1, 4])
def test_ack_and_reject_mean_the_same_however_often_it_was_tried(policy: RetryPolicy | None, attempt: int) -> None:
    assert ending(Ack(), attempt, policy, RNG) is DONE
    assert ending(Reject("too old"), attempt, policy, RNG) == Dead(Failure(FailureKind.REJECTED, "", "too old"))
    assert ending(Reject(), attempt, policy, RNG) == Dead(NO_REASON)
    assert ending(failed(Reject("ValueError: no such order")), attempt, policy, RNG) == Dead(FAILURE)


def test_each_failure_climbs_the_ladder_and_the_last_one_is_a_dead_letter() -> None:
    endings = [ending(failed(Retry()), attempt, POLICY, RNG) for attempt in (1, 2, 3, 4)]
    assert endings == [Later(1000, 2, FAILURE), Later(5000, 3, FAILURE), Later(25_000, 4, FAILURE), Dead(FAILURE)]


def test_a_retry_that_names_its_delay_takes_a_step_that_is_long_enough_within_the_same_bound() -> None:
    assert ending(Retry(2, "the bank sleeps"), 3, POLICY, RNG) == Later(
        5000, 4, Failure(FailureKind.REJECTED, "", "the bank sleeps")
    )
    assert ending(Retry(0), 1, POLICY, RNG) == Later(1000, 2, NO_REASON)
    assert ending(Retry(3600), 1, POLICY, RNG) == Later(25_000, 2, NO_REASON)
    assert ending(Retry(2), 4, POLICY, RNG) == Dead(NO_REASON)


def test_without_a_policy_a_retry_is_a_dead_letter() -> None:
    assert ending(Retry(2), 1, None, RNG) == Dead(NO_REASON)


@pytest.mark.parametrize(("policy", "most"), [(POLICY, 4), (None, 4), (replace(POLICY, max_retries=0), 1)])
def test_each_requeue_is_an_attempt_and_the_last_one_is_a_dead_letter(policy: RetryPolicy | None, most: int) -> None:
    endings = [ending(failed(Requeue()), attempt, policy, RNG) for attempt in range(1, most + 1)]
    assert endings[:-1] == [Again(attempt, FAILURE) for attempt in range(2, most + 1)]
    assert endings[-1] == Dead(FAILURE)


def test_requeue_that_the_handler_asked_for_says_so_at_its_end() -> None:
    assert ending(Requeue(), 4, POLICY, RNG) == Dead(
        Failure(FailureKind.REJECTED, "", "asked to be requeued, in the last of 4 attempts")
    )


def test_requeues_and_retries_share_their_attempts() -> None:
    assert isinstance(ending(Requeue(), 3, POLICY, RNG), Again)
    assert isinstance(ending(Retry(), 4, POLICY, RNG), Dead)


def test_a_settlement_of_no_known_kind_is_our_bug() -> None:
    class Other(Settlement):
        pass

    with pytest.raises(AssertionError, match="Other is not in it"):
        ending(Other(), 1, POLICY, RNG)


# ---- the whole life of a message


def copied(delivery: Delivery, attempt: int) -> Delivery:
    """Deliver a copy, that waited or did not: to its queue it is a new message."""
    content = retry_copy(delivery, attempt)
    raw = content.head + b"\x02id" + content.tail
    return Delivery(content.body, raw, delivery.raw_route, False, 1, source_of(delivery))


def in_place(delivery: Delivery, attempt: int) -> Delivery:
    """Have a delivery executed again, as where order is promised."""
    delivery.executed += 1
    return delivery


@settings(max_examples=500)
@given(
    answers=st.lists(settlements, min_size=1, max_size=3),
    again=st.sampled_from([copied, in_place]),
    policy=policies,
    attempt=forged_counts,
    count=forged_counts,
)
def test_no_settlements_and_no_headers_make_a_message_immortal(
    answers: list[Callable[[], Settlement]],
    again: Callable[[Delivery, int], Delivery],
    policy: RetryPolicy | None,
    attempt: Any,
    count: Any,
) -> None:
    headers = encode({ATTEMPT_HEADER: attempt, "x-delivery-count": count, "other": 1})
    delivery = received(raw_properties(headers=len(headers).to_bytes(4, "big") + headers))
    most = (policy or POLICY).max_attempts
    for executions, answer in enumerate(cycle(answers), 1):
        assert executions <= most
        ends: Ending = ending(answer(), attempt_of(delivery, most), policy, RNG)
        if isinstance(ends, Again):
            delivery = again(delivery, ends.attempt)
        elif isinstance(ends, Later):
            delivery = copied(delivery, ends.attempt)
        else:
            break
    assert isinstance(ends, Dead)


@given(policy=policies, attempt=forged_counts, after=st.lists(st.none() | st.floats(0, 100), min_size=8, max_size=8))
def test_a_message_that_only_fails_is_executed_as_often_as_the_policy_says_and_no_more(
    policy: RetryPolicy | None, attempt: Any, after: list[float | None]
) -> None:
    headers = encode({ATTEMPT_HEADER: attempt})
    forged = received(raw_properties(headers=len(headers).to_bytes(4, "big") + headers))
    max_attempts = policy.max_attempts if policy else 1
    for delivery, is_forged in ((forged, True), (received(), False)):
        executions = 0
        for after_s in after:
            executions += 1
            ends = ending(Retry(after_s), attempt_of(delivery, max_attempts), policy, RNG)
            if not isinstance(ends, Later):
                break
            delivery = copied(delivery, ends.attempt)
        assert isinstance(ends, Dead)
        assert executions <= max_attempts if is_forged else executions == max_attempts
