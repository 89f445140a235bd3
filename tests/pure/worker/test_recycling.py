"""When a worker has lived long enough."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.lifecycle import Wish
from mxworker.config.limits import JITTER, Limits
from mxworker.errors import ConfigError
from mxworker.worker.recycling import exceeded


def test_without_limits_a_process_never_wishes_to_be_replaced() -> None:
    assert Limits().jittered(random.Random(1)) == Limits()
    assert exceeded(Limits(), 2**62, 2**62, 1e12) is Wish.NONE


@pytest.mark.parametrize(
    ("limits", "wish"),
    [
        (Limits(messages=100), Wish.MESSAGES),
        (Limits(rss_bytes=100), Wish.RSS),
        (Limits(age_s=100.0), Wish.AGE),
    ],
)
def test_each_limit_is_reached_by_its_own_measure_and_by_no_other(limits: Limits, wish: Wish) -> None:
    measures = {Wish.MESSAGES: (100, 0, 0.0), Wish.RSS: (0, 100, 0.0), Wish.AGE: (0, 0, 100.0)}
    for measured, (messages, rss_bytes, age_s) in measures.items():
        assert exceeded(limits, messages, rss_bytes, age_s) is (wish if measured is wish else Wish.NONE)
    assert exceeded(limits, 99, 99, 99.9) is Wish.NONE


@given(st.integers(1, 10**9), st.integers(1, 2**40), st.floats(1e-3, 1e9), st.integers())
def test_jitter_moves_each_limit_by_a_tenth_at_most_and_keeps_it_above_nothing(
    messages: int, rss_bytes: int, age_s: float, seed: int
) -> None:
    jittered = Limits(messages, rss_bytes, age_s).jittered(random.Random(seed))
    assert jittered.messages is not None
    assert jittered.rss_bytes is not None
    assert jittered.messages >= 1
    assert abs(jittered.messages - messages) <= JITTER * messages + 0.5
    assert abs(jittered.rss_bytes - rss_bytes) <= JITTER * rss_bytes + 0.5
    assert jittered.age_s == pytest.approx(age_s, rel=JITTER * 1.001)


def test_workers_started_together_do_not_all_end_together() -> None:
    rng = random.Random(1)
    together = [Limits(1_000, 10**9, 3600.0).jittered(rng) for _ in range(100)]
    assert len({limits.messages for limits in together}) > 50
    assert len({limits.rss_bytes for limits in together}) > 90
    assert len({limits.age_s for limits in together}) > 90


@pytest.mark.parametrize(
    ("limits", "flag"),
    [
        ({"messages": 0}, "--max-messages is 0"),
        ({"messages": -1}, "--max-messages is -1"),
        ({"rss_bytes": 0}, "--max-rss is 0"),
        ({"age_s": 0.0}, "--max-age is 0.0"),
        ({"age_s": float("nan")}, "--max-age is nan"),
    ],
)
def test_limit_that_would_replace_at_once_is_refused(limits: dict[str, float], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        Limits(**limits)  # type: ignore[arg-type]
