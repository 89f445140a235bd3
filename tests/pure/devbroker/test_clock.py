"""Time that is moved: timers fire in their order, each at its own instant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.devbroker.clock import Clock


class Real:
    """A reading that the test sets."""

    def __init__(self) -> None:
        self.ms = 1000.0


@pytest.fixture
def real() -> Real:
    return Real()


@pytest.fixture
def clock(real: Real) -> Clock:
    return Clock(lambda: real.ms)


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 1200))
def test_timers_fire_in_order_at_their_own_instants(delays: list[int], by_ms: int) -> None:
    clock = Clock(lambda: 0.0)
    fired: list[tuple[float, int]] = []
    for number, delay in enumerate(delays):
        clock.call_later(delay, lambda number=number: fired.append((clock.now_ms, number)))  # type: ignore[misc]
    assert clock.advance(by_ms) == len(fired)
    assert fired == sorted((float(delay), number) for number, delay in enumerate(delays) if delay <= by_ms)
    assert clock.now_ms == by_ms


def test_a_timer_set_by_a_timer_fires_in_the_same_advance(clock: Clock) -> None:
    fired: list[float] = []

    def again() -> None:
        fired.append(clock.now_ms)
        clock.call_later(100, again)

    clock.call_later(100, again)
    clock.advance(350)
    assert fired == [1100, 1200, 1300]


def test_real_time_passes_as_well(clock: Clock, real: Real) -> None:
    fired: list[float] = []
    clock.call_later(100, lambda: fired.append(clock.now_ms))
    clock.advance(60)
    real.ms += 39
    assert clock.fire_due() == 0
    real.ms += 1
    assert clock.fire_due() == 1
    assert fired == [1100]


def test_a_late_timer_does_not_turn_the_time_back(clock: Clock, real: Real) -> None:
    fired: list[float] = []
    clock.call_later(10, lambda: fired.append(clock.now_ms))
    real.ms += 500
    clock.advance(100)
    assert fired == [1500]


def test_a_cancelled_timer_does_nothing(clock: Clock) -> None:
    fired: list[int] = []
    timer = clock.call_later(10, lambda: fired.append(1))
    timer.cancel()
    assert clock.nearest_ms() is None
    assert clock.advance(100) == 0
    assert fired == []


def test_a_failing_timer_does_not_stop_the_time(clock: Clock) -> None:
    def fail() -> None:
        raise RuntimeError

    clock.call_later(10, fail)
    with pytest.raises(RuntimeError):
        clock.advance(100)
    assert clock.now_ms == 1000
    clock.advance(100)
    assert clock.now_ms == 1100


def test_time_does_not_go_back(clock: Clock) -> None:
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(-1)
