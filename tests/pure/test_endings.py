"""How a delivery ends: whatever handlers say and publishers write, each message is executed, and not for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxworker import Ack, Delivery, Queue, Reject, Requeue, Retry, RetryPolicy
from mxworker.copies import ATTEMPT_HEADER, attempt_of, redeliveries_of, retry_copy
from mxworker.endings import BACK, DONE, Dead, Ending, History, Later, ending
from mxworker.failures import Failure, FailureKind
from mxworker.field_table import encode
from mxworker.origins import headers_of, with_headers
from mxworker.properties import join, split
from mxworker.settlement import Settlement
from tests.harness.copied import received
from tests.rabbit.raw import raw_properties

RNG = random.Random(1)
POLICY = RetryPolicy(max_retries=3, delays=(1, 5, 25), jitter=False)
FAILURE = Failure(FailureKind.FAILED, "ValueError", "no such order")
NO_REASON = Failure(FailureKind.REJECTED, "", "no reason given")
QUEUES = (
    Queue("work"),
    Queue("work", type="classic"),
    Queue("work", declare="passive"),
    Queue("work", type="classic", declare="off"),
)

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
@pytest.mark.parametrize("history", [History(1), History(4, 10**9), History(1, None)])
def test_ack_and_reject_mean_the_same_however_often_it_was_tried(policy: RetryPolicy | None, history: History) -> None:
    assert ending(Ack(), history, policy, RNG) is DONE
    assert ending(Reject("too old"), history, policy, RNG) == Dead(Failure(FailureKind.REJECTED, "", "too old"))
    assert ending(Reject(), history, policy, RNG) == Dead(NO_REASON)
    assert ending(failed(Reject("ValueError: no such order")), history, policy, RNG) == Dead(FAILURE)


def test_each_failure_climbs_the_ladder_and_the_last_one_is_a_dead_letter() -> None:
    endings = [ending(failed(Retry()), History(attempt), POLICY, RNG) for attempt in (1, 2, 3, 4)]
    assert endings == [Later(1000, 2, FAILURE), Later(5000, 3, FAILURE), Later(25_000, 4, FAILURE), Dead(FAILURE)]


def test_a_retry_that_names_its_delay_takes_a_step_that_is_long_enough_within_the_same_bound() -> None:
    assert ending(Retry(2, "the bank sleeps"), History(3), POLICY, RNG) == Later(
        5000, 4, Failure(FailureKind.REJECTED, "", "the bank sleeps")
    )
    assert ending(Retry(0), History(1), POLICY, RNG) == Later(1000, 2, NO_REASON)
    assert ending(Retry(3600), History(1), POLICY, RNG) == Later(25_000, 2, NO_REASON)
    assert ending(Retry(2), History(4), POLICY, RNG) == Dead(NO_REASON)


def test_without_a_policy_a_retry_is_a_dead_letter() -> None:
    assert ending(Retry(2), History(1), None, RNG) == Dead(NO_REASON)


@pytest.mark.parametrize(("policy", "bound"), [(POLICY, 3), (None, 3), (replace(POLICY, max_retries=0), 0)])
def test_a_requeue_is_immediate_until_the_broker_has_counted_enough(policy: RetryPolicy | None, bound: int) -> None:
    endings = [ending(Requeue(), History(1, redeliveries), policy, RNG) for redeliveries in range(bound + 1)]
    assert endings[:-1] == [BACK] * bound
    text = f"asked to be requeued, but was delivered again {bound} times already"
    assert endings[-1] == Dead(Failure(FailureKind.REJECTED, "", text))


def test_where_the_broker_does_not_count_a_second_requeue_is_a_retry() -> None:
    why = Failure(FailureKind.REJECTED, "", "asked to be requeued again")
    assert ending(Requeue(), History(1, 0), POLICY, RNG) is BACK
    assert ending(Requeue(), History(1, None), POLICY, RNG) == Later(1000, 2, why)
    assert ending(failed(Requeue()), History(2, None), POLICY, RNG) == Later(5000, 3, FAILURE)
    assert ending(Requeue(), History(4, None), POLICY, RNG) == Dead(why)
    assert ending(Requeue(), History(1, None), None, RNG) == Dead(why)


def test_a_settlement_of_no_known_kind_is_our_bug() -> None:
    class Other(Settlement):
        pass

    with pytest.raises(AssertionError, match="Other is not in it"):
        ending(Other(), History(1), POLICY, RNG)


# ---- the whole life of a message


@dataclass
class Broker:
    """What a queue does to a message that comes back, as RabbitMQ does it (tried with 3.10).

    A quorum queue writes its own count over whatever the header said, the first one when there are two; a classic queue
    leaves the header alone.
    """

    is_quorum: bool
    returns: int = 0

    def again(self, delivery: Delivery) -> Delivery:
        """Deliver the same copy once more."""
        self.returns += 1
        raw = _with_count(delivery.raw_properties, self.returns) if self.is_quorum else delivery.raw_properties
        return Delivery(delivery.body, raw, delivery.raw_route, True, 1, delivery.source)

    def copy(self, delivery: Delivery, attempt: int) -> Delivery:
        """Deliver a copy that waited in a retry queue: to the queue it is a new message."""
        self.returns = 0
        content = retry_copy(delivery, attempt)
        raw = content.head + b"\x02id" + content.tail
        return Delivery(content.body, raw, delivery.raw_route, False, 1, delivery.source)


def _with_count(raw: bytes, count: int) -> bytes:
    """Return properties whose headers say that the broker has redelivered the message `count` times."""
    values = split(raw)
    headers = headers_of(values)
    counts = [at for at, (name, _) in enumerate(headers) if name == b"x-delivery-count"] or [len(headers)]
    headers[counts[0] : counts[0] + 1] = [(b"x-delivery-count", b"l" + count.to_bytes(8, "big"))]
    return join(with_headers(values, headers))


@settings(max_examples=500)
@given(
    answers=st.lists(settlements, min_size=1, max_size=3),
    queue=st.sampled_from(QUEUES),
    is_passive_quorum=st.booleans(),
    policy=policies,
    attempt=forged_counts,
    count=forged_counts,
    is_doubled=st.booleans(),
    was_cut_off=st.booleans(),
)
def test_no_settlements_and_no_headers_make_a_message_immortal(
    answers: list[Callable[[], Settlement]],
    queue: Queue,
    is_passive_quorum: bool,
    policy: RetryPolicy | None,
    attempt: Any,
    count: Any,
    is_doubled: bool,
    was_cut_off: bool,
) -> None:
    headers = encode({ATTEMPT_HEADER: attempt, "x-delivery-count": count, "other": 1})
    headers += encode({"x-delivery-count": count}) * is_doubled
    delivery = received(raw_properties(headers=len(headers).to_bytes(4, "big") + headers))
    broker = Broker(is_passive_quorum if queue.declare != "ensure" else queue.type == "quorum")
    if was_cut_off:  # a worker died with it before
        delivery = broker.again(delivery)
    max_attempts = policy.max_attempts if policy else 1
    most = max_attempts * (1 + (policy or POLICY).max_retries)
    executions = 0
    for answer in cycle(answers):
        executions += 1
        assert executions <= most
        history = History(attempt_of(delivery, max_attempts), redeliveries_of(delivery, queue.counts_redeliveries))
        ends: Ending = ending(answer(), history, policy, RNG)
        if ends is BACK:
            delivery = broker.again(delivery)
        elif isinstance(ends, Later):
            delivery = broker.copy(delivery, ends.attempt)
        else:
            break
    assert isinstance(ends, Dead)
    assert executions >= 1


@given(policy=policies, attempt=forged_counts, after=st.lists(st.none() | st.floats(0, 100), min_size=8, max_size=8))
def test_a_message_that_only_fails_is_executed_as_often_as_the_policy_says_and_no_more(
    policy: RetryPolicy | None, attempt: Any, after: list[float | None]
) -> None:
    headers = encode({ATTEMPT_HEADER: attempt})
    forged = received(raw_properties(headers=len(headers).to_bytes(4, "big") + headers))
    max_attempts = policy.max_attempts if policy else 1
    for delivery, is_forged in ((forged, True), (received(), False)):
        broker = Broker(is_quorum=True)
        executions = 0
        for after_s in after:
            executions += 1
            ends = ending(Retry(after_s), History(attempt_of(delivery, max_attempts)), policy, RNG)
            if not isinstance(ends, Later):
                break
            delivery = broker.copy(delivery, ends.attempt)
        assert isinstance(ends, Dead)
        assert executions <= max_attempts if is_forged else executions == max_attempts
