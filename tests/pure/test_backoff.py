"""A wait grows, stays below its cap, and is spread over the whole range."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.backoff import RECONNECT, REFUSED, RESPAWN, Backoff, next_attempt

BACKOFFS = st.builds(Backoff, base_s=st.floats(0.001, 100), cap_s=st.floats(0.001, 1000), factor=st.floats(1, 1000))


@given(backoff=BACKOFFS, attempt=st.integers(0, 10**6), seed=st.integers())
def test_a_wait_is_between_nothing_and_its_ceiling(backoff: Backoff, attempt: int, seed: int) -> None:
    assert 0 <= backoff.delay_s(attempt, random.Random(seed)) <= backoff.ceiling_s(attempt) <= backoff.cap_s


@given(backoff=BACKOFFS, attempt=st.integers(0, 10**6))
def test_a_ceiling_never_sinks(backoff: Backoff, attempt: int) -> None:
    assert backoff.ceiling_s(attempt) <= backoff.ceiling_s(attempt + 1)


def test_the_ceiling_doubles_from_the_base_up_to_the_cap() -> None:
    assert [Backoff(0.5, 3.0).ceiling_s(attempt) for attempt in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_slowly_growing_ceiling_reaches_its_cap_too() -> None:
    assert Backoff(0.1, 300.0, factor=1.1).ceiling_s(100) == 300.0


def test_waits_are_spread_over_the_whole_range() -> None:
    rng = random.Random(3)
    waits = [Backoff(1.0, 8.0).delay_s(10, rng) for _ in range(4000)]
    for eighth in range(8):
        assert 350 < sum(eighth <= wait < eighth + 1 for wait in waits) < 650  # 500 expected


def test_the_same_seed_gives_the_same_waits() -> None:
    first, second = random.Random(9), random.Random(9)
    assert [RESPAWN.delay_s(n, first) for n in range(9)] == [RESPAWN.delay_s(n, second) for n in range(9)]


@pytest.mark.parametrize(
    ("backoff", "first_s", "last_s"), [(RECONNECT, 0.5, 4.0), (REFUSED, 8.0, 8.0), (RESPAWN, 0.5, 30.0)]
)
def test_the_backoffs_in_use_start_and_end_where_the_design_says(
    backoff: Backoff, first_s: float, last_s: float
) -> None:
    assert backoff.ceiling_s(0) == first_s
    assert backoff.ceiling_s(10**9) == last_s


def test_what_lived_counts_anew_and_what_ended_soon_counts_on() -> None:
    assert next_attempt(7, lived_s=60.0) == 0
    assert next_attempt(7, lived_s=0.1) == 8
