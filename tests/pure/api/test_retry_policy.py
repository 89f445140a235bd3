"""Which step of the ladder a retry takes, and which ladders there can be."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mxworker import RetryPolicy
from mxworker.api.retry_policy import DEFAULT_RETRY, MAX_STEPS
from mxworker.config.bounds import MAX_RETRIES

LADDERS = st.lists(st.integers(10, 10**8), min_size=1, max_size=MAX_STEPS, unique=True).map(
    lambda steps_ms: tuple(step_ms / 1000 for step_ms in sorted(steps_ms))
)
ATTEMPTS = st.integers(1, MAX_RETRIES + 1)


def test_the_default_is_what_the_documentation_says() -> None:
    assert (DEFAULT_RETRY.max_retries, DEFAULT_RETRY.max_attempts) == (3, 4)
    assert DEFAULT_RETRY.steps_ms == (1000, 5000, 25_000)
    assert DEFAULT_RETRY.jitter


@given(delays=LADDERS, attempt=ATTEMPTS, seed=st.integers())
def test_without_jitter_each_attempt_has_its_step_and_the_last_serves_the_rest(
    delays: tuple[float, ...], attempt: int, seed: int
) -> None:
    policy = RetryPolicy(delays=delays, jitter=False)
    assert policy.step_ms(attempt, random.Random(seed)) == policy.steps_ms[min(attempt, len(delays)) - 1]


@given(delays=LADDERS, attempt=ATTEMPTS)
def test_jitter_takes_the_own_step_or_the_next_and_both_happen(delays: tuple[float, ...], attempt: int) -> None:
    policy = RetryPolicy(delays=delays)
    own = min(attempt, len(delays)) - 1
    rng = random.Random(1)
    assert {policy.step_ms(attempt, rng) for _ in range(50)} == set(policy.steps_ms[own : own + 2])


@given(delays=LADDERS, after_s=st.floats(0, 10**6))
def test_a_delay_that_is_asked_for_takes_the_shortest_step_that_is_long_enough(
    delays: tuple[float, ...], after_s: float
) -> None:
    policy = RetryPolicy(delays=delays)
    assume(after_s <= delays[-1])
    taken = policy.step_after_ms(after_s)
    assert taken / 1000 >= after_s
    assert all(shorter / 1000 < after_s for shorter in policy.steps_ms if shorter < taken)


@given(delays=LADDERS)
def test_each_delay_of_the_ladder_asked_for_by_its_own_number_takes_its_own_step(delays: tuple[float, ...]) -> None:
    policy = RetryPolicy(delays=delays)
    assert tuple(policy.step_after_ms(delay_s) for delay_s in delays) == policy.steps_ms


def test_a_delay_whose_milliseconds_are_no_whole_number_as_a_float_takes_its_own_step() -> None:
    assert 16.1 * 1000 > 16_100
    assert RetryPolicy(delays=(16.1, 60)).step_after_ms(16.1) == 16_100


@given(delays=LADDERS, beyond_s=st.floats(0.001, 10**9))
def test_a_delay_above_the_last_step_takes_the_last(delays: tuple[float, ...], beyond_s: float) -> None:
    policy = RetryPolicy(delays=delays)
    assert policy.step_after_ms(delays[-1] + beyond_s) == policy.steps_ms[-1]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"max_retries": -1}, "max_retries is -1, but must be from 0 to 100"),
        ({"max_retries": 101}, "max_retries is 101"),
        ({"delays": ()}, "delays has 0 steps"),
        ({"delays": tuple(range(1, 18))}, "delays has 17 steps, but must have from 1 to 16"),
        ({"delays": (0, 1)}, "a delay is 0, but must be from 0.01"),
        ({"delays": (1, float("nan"))}, "a delay is nan"),
        ({"delays": (1, float("inf"))}, "a delay is inf"),
        ({"delays": (3_000_000,)}, "a delay is 3000000"),
        ({"delays": (5, 1)}, "must ascend"),
        ({"delays": (1, 1)}, "must ascend"),
        ({"delays": (1, 1.0001)}, "must ascend, by a millisecond at least"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_said(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RetryPolicy(**settings)  # type: ignore[arg-type]
