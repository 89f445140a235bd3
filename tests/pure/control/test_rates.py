"""Rates and distributions between two looks at counters, over restarts of the service."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.control.rates import Look, Rates

FIRST, SECOND = ("pid 10", 1.0), ("pid 20", 2.0)


def rates_of(looks: Iterable[tuple[float, int]], longest_s: float = 300.0) -> Rates:
    rates = Rates(longest_s)
    for at, acked in looks:
        rates.add(Look(at, FIRST, {"acked": acked}))
    return rates


def test_a_rate_is_the_growth_over_the_window() -> None:
    rates = rates_of((at, 100 * at if at < 80 else 8_000 + 200 * (at - 80)) for at in range(161))
    assert rates.per_s("acked", 5) == 200
    assert rates.per_s("acked", 60) == 200
    assert rates.per_s("acked", 300) == pytest.approx((8_000 + 200 * 80) / 160)


def test_nothing_is_known_after_one_look() -> None:
    rates = rates_of([(7.0, 100)])
    assert rates.span_s(5) == 0
    assert rates.per_s("acked", 5) is None
    assert rates.grown("duration", 5) is None


def test_nothing_is_known_before_the_first_look() -> None:
    assert Rates().span_s(5) == 0
    assert Rates().per_s("acked", 5) is None


def test_an_unknown_counter_has_no_rate() -> None:
    assert rates_of([(0, 1), (1, 2)]).per_s("rejected", 5) is None


def test_a_window_that_is_not_full_yet_is_divided_by_the_time_it_has() -> None:
    rates = rates_of([(10.0, 500), (12.0, 700)])
    assert rates.span_s(60) == 2
    assert rates.per_s("acked", 60) == 100


def test_a_window_begins_at_a_look_that_is_as_old() -> None:
    rates = rates_of([(0, 0), (3, 300), (6, 900), (9, 1_500)])
    assert rates.span_s(5) == 6
    assert rates.per_s("acked", 5) == 200


def test_a_counter_that_appears_began_at_zero() -> None:
    rates = rates_of([(0, 5)])
    rates.add(Look(2, FIRST, {"acked": 5, "rejected": 8}))
    assert rates.per_s("rejected", 5) == 4


def test_a_counter_that_went_down_began_at_zero() -> None:
    assert rates_of([(0, 100), (1, 110), (2, 30)]).per_s("acked", 60) == 20


def test_the_counters_of_another_process_count_in_full() -> None:
    """Also when they have already grown past those of the process before."""
    rates = Rates()
    rates.add(Look(0, FIRST, {"acked": 100}, {"duration": (60, 40, 9.5)}))
    rates.add(Look(1, FIRST, {"acked": 110}, {"duration": (70, 40, 10.5)}))
    rates.add(Look(4, SECOND, {"acked": 150}, {"duration": (75, 75, 30.0)}))
    assert rates.per_s("acked", 60) == 40
    assert rates.grown("duration", 60) == (85, 75, 31.0)


def test_a_histogram_grows_bucket_by_bucket() -> None:
    rates = Rates()
    for at, counts in enumerate([(1, 0, 0), (5, 1, 0), (5, 9, 2)]):
        rates.add(Look(float(at), FIRST, {}, {"duration": counts}))
    assert rates.grown("duration", 1) == (0, 8, 2)
    assert rates.grown("duration", 5) == (4, 9, 2)


def test_a_histogram_in_which_one_bucket_went_down_began_at_zero() -> None:
    rates = Rates()
    rates.add(Look(0, FIRST, {}, {"duration": (10, 2)}))
    rates.add(Look(1, FIRST, {}, {"duration": (3, 4)}))
    assert rates.grown("duration", 5) == (3, 4)


def test_a_histogram_of_other_buckets_began_at_zero() -> None:
    rates = Rates()
    rates.add(Look(0, FIRST, {}, {"duration": (10, 2)}))
    rates.add(Look(1, SECOND, {}, {"duration": (3, 4, 5)}))
    rates.add(Look(2, SECOND, {}, {"duration": (4, 4, 5)}))
    assert rates.grown("duration", 5) == (4, 4, 5)


@pytest.mark.parametrize("every_s", [0.1, 1.0, 7.0])
def test_the_looks_that_are_kept_are_few(every_s: float) -> None:
    rates = rates_of((number * every_s, number) for number in range(5_000))
    assert len(rates._sums) <= 150
    for window_s in (5, 60, 300):
        assert window_s <= rates.span_s(window_s) <= window_s * 1.2 + every_s
        assert rates.per_s("acked", window_s) == pytest.approx(1 / every_s)


@given(
    st.lists(
        st.tuples(st.floats(0.05, 20), st.integers(0, 1_000), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_no_growth_is_lost_or_counted_twice(steps: list[tuple[float, int, bool]]) -> None:
    """Over any number of restarts: what is seen after a restart counts, what was not seen before it does not."""
    rates = Rates(longest_s=10_000)
    rates.add(Look(0.0, 0, {"acked": 7}, {"duration": (7,)}))
    at, value, process, grown = 0.0, 7, 0, 0
    for pause_s, more, has_restarted in steps:
        at, process = at + pause_s, process + has_restarted
        value = more if has_restarted else value + more
        grown += more
        rates.add(Look(at, process, {"acked": value}, {"duration": (value,)}))
    assert rates.span_s(10_000) == at
    assert rates.per_s("acked", 10_000) == pytest.approx(grown / at)
    assert rates.grown("duration", 10_000) == (grown,)
