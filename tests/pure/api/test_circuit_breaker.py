"""The circuit breaker: when it opens, how it tries again, and that it remembers no more than its window."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mxworker.api.circuit_breaker import Action, Breaker, BreakerState, CircuitBreaker, Close, PauseUntil, Try
from mxworker.errors import InvariantError

BUCKETS = 10
EARLY = CircuitBreaker(failure_ratio=0.5, window=10.0, min_deliveries=4, pause=30.0, trial=2)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(EARLY)
    actions = [breaker.failed(at, at) for _ in range(4)]
    assert actions == [None, None, None, PauseUntil(at + 30)]
    return breaker


def half_open(at: float = 30.0) -> Breaker:
    breaker = opened(at - 30)
    assert breaker.rested(at) == Try(2)
    return breaker


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"failure_ratio": 0}, "failure_ratio is 0, but must be above 0 and at most 1"),
        ({"failure_ratio": 1.1}, "failure_ratio is 1.1, but must be above 0 and at most 1"),
        ({"failure_ratio": math.nan}, "failure_ratio is nan, but must be above 0 and at most 1"),
        ({"window": 0}, "window is 0, but must be a time above 0"),
        ({"pause": math.inf}, "pause is inf, but must be a time above 0"),
        ({"pause": math.nan}, "pause is nan, but must be a time above 0"),
        ({"min_deliveries": 0}, "min_deliveries is 0, but must be at least 1"),
        ({"trial": 0}, "trial is 0, but must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=f"^circuit breaker: {said}$"):
        CircuitBreaker(**values)  # type: ignore[arg-type]


def test_it_opens_at_the_ratio_and_not_before_enough_deliveries() -> None:
    breaker = Breaker(EARLY)
    assert breaker.failed(0, 0) is None
    assert breaker.failed(0, 0) is None
    assert breaker.succeeded(0, 0) is None
    assert breaker.succeeded(1, 1) == PauseUntil(31), "the fourth, half of which failed"
    assert breaker.state is BreakerState.OPEN


def test_failures_below_the_ratio_do_not_open_it() -> None:
    breaker = Breaker(EARLY)
    for number in range(1000):
        assert (breaker.failed if number % 3 == 2 else breaker.succeeded)(number / 1000, 0) is None


def test_failures_that_are_older_than_the_window_count_no_more() -> None:
    breaker = Breaker(EARLY)
    for _ in range(3):
        assert breaker.failed(0.5, 0.5) is None
    assert breaker.failed(10.5, 10.5) is None
    assert breaker.state is BreakerState.CLOSED


def test_what_ends_while_it_is_open_changes_nothing() -> None:
    breaker = opened()
    assert breaker.failed(1, 1) is None
    assert breaker.succeeded(2, 2) is None
    assert breaker.rested(30) == Try(2)


def test_call_that_comes_too_early_is_told_to_wait() -> None:
    breaker = opened()
    assert breaker.rested(29.9) == PauseUntil(30)
    assert breaker.state is BreakerState.OPEN


def test_what_was_started_before_the_trial_says_nothing_about_it() -> None:
    breaker = half_open(at=30)
    assert breaker.failed(31, 29.9) is None
    assert [breaker.succeeded(31, 29.9) for _ in range(5)] == [None] * 5
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.failed(31, 30) == PauseUntil(91)


def test_trial_that_succeeds_closes_it_with_nothing_kept_in_mind() -> None:
    breaker = half_open()
    assert breaker.succeeded(31, 31) is None
    assert breaker.succeeded(31, 31) == Close()
    assert [breaker.failed(32, 32) for _ in range(3)] == [None] * 3
    assert breaker.failed(32, 32) == PauseUntil(62), "the first pause again"


def test_each_failed_trial_doubles_the_pause_up_to_ten_times() -> None:
    breaker = opened()
    now, pauses = 0.0, [30.0]
    for _ in range(6):
        now += pauses[-1]
        assert breaker.rested(now) == Try(2)
        action = breaker.failed(now, now)
        assert isinstance(action, PauseUntil)
        pauses.append(action.until - now)
    assert pauses == [30, 60, 120, 240, 300, 300, 300]


@pytest.mark.parametrize("make", [lambda: Breaker(EARLY), half_open])
def test_rest_that_nobody_took_is_a_bug(make: object) -> None:
    breaker = make()  # type: ignore[operator]
    before = breaker.state
    with pytest.raises(InvariantError):
        breaker.rested(1000)
    assert breaker.state is before


class AgainstModel(RuleBasedStateMachine):
    """A breaker beside a model that keeps every instant."""

    @initialize(
        ratio=st.sampled_from([0.1, 0.5, 1.0]), least=st.integers(1, 6), trial=st.integers(1, 3), now=st.floats(0, 1e6)
    )
    def begin(self, ratio: float, least: int, trial: int, now: float) -> None:
        self.settings = CircuitBreaker(ratio, window=10.0, min_deliveries=least, pause=5.0, trial=trial)
        self.breaker = Breaker(self.settings)
        self.now = now
        self.ended: list[tuple[float, bool]] = []
        self.until = 0.0
        self.pauses = itertools.count()
        self.left = 0
        self.last_pause = 5.0

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.state is BreakerState.CLOSED)
    @rule(has_failed=st.booleans(), count=st.integers(1, 4))
    def end_while_closed(self, has_failed: bool, count: int) -> None:
        for _ in range(count):
            action = self._end(has_failed)
            bucket = math.floor(self.now / 1.0)
            self.ended.append((self.now, has_failed))
            self.ended = [(at, bad) for at, bad in self.ended if math.floor(at / 1.0) > bucket - BUCKETS]
            failures = sum(bad for _, bad in self.ended)
            is_enough = len(self.ended) >= self.settings.min_deliveries
            if is_enough and failures >= self.settings.failure_ratio * len(self.ended):
                self.last_pause = 5.0
                self._expect_pause(action)
                return
            assert action is None

    @precondition(lambda self: self.breaker.state is BreakerState.HALF_OPEN)
    @rule(has_failed=st.booleans())
    def end_the_trial(self, has_failed: bool) -> None:
        action = self._end(has_failed)
        self.left -= 1
        if has_failed:
            self.last_pause = min(2 * self.last_pause, 50.0)
            self._expect_pause(action)
        elif self.left == 0:
            assert action == Close()
            self.ended = []
        else:
            assert action is None

    @precondition(lambda self: self.breaker.state is BreakerState.OPEN)
    @rule(has_failed=st.booleans())
    def end_what_ran_before(self, has_failed: bool) -> None:
        assert self._end(has_failed) is None

    @precondition(lambda self: self.breaker.state is BreakerState.OPEN)
    @rule()
    def rest(self) -> None:
        action = self.breaker.rested(self.now)
        if self.now < self.until:
            assert action == PauseUntil(self.until)
        else:
            assert action == Try(self.settings.trial)
            self.left = self.settings.trial

    def _end(self, has_failed: bool) -> Action | None:
        return self.breaker.failed(self.now, self.now) if has_failed else self.breaker.succeeded(self.now, self.now)

    def _expect_pause(self, action: Action | None) -> None:
        self.until = self.now + self.last_pause
        assert action == PauseUntil(self.until)
        assert self.breaker.state is BreakerState.OPEN

    @invariant()
    def a_pause_is_never_longer_than_ten_times_the_first(self) -> None:
        assert self.until <= self.now + 50


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
