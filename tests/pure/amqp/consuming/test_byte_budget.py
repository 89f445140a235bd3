"""How many bytes may be held, who is told when some are given back, and what prefetch fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.amqp.consuming.byte_budget import ByteBudget


def holding(held_bytes: int, limit_bytes: int = 100) -> ByteBudget:
    budget = ByteBudget(limit_bytes)
    budget.held_bytes = held_bytes
    return budget


def test_it_has_recovered_below_half() -> None:
    assert not holding(50).has_recovered
    assert holding(49).has_recovered


def test_who_waits_is_told_of_everything_that_is_given_back_until_it_stops() -> None:
    budget = holding(100)
    told: list[int] = []

    def retry() -> None:
        told.append(budget.held_bytes)
        if budget.has_recovered:
            budget.stop_waiting(retry)

    budget.wait(retry)
    budget.wait(retry)
    for _ in range(8):
        budget.give_back(10)
    assert told == [90, 80, 70, 60, 50, 40]
    assert budget.held_bytes == 20
    budget.stop_waiting(retry)


@pytest.mark.parametrize(
    ("held", "body", "most", "prefetch"),
    [
        (0, 0, 64, 64),
        (0, 1, 64, 50),
        (0, 10, 64, 5),
        (0, 10, 3, 3),
        (49, 10, 64, 5),
        (80, 10, 64, 2),
        (100, 10, 64, 1),
        (160, 10, 64, 1),
        (0, 1000, 64, 1),
    ],
)
def test_prefetch_fills_half_of_the_budget_or_what_is_free(held: int, body: int, most: int, prefetch: int) -> None:
    assert holding(held).fitting_prefetch(body, most) == prefetch


@given(held=st.integers(0, 2000), body=st.integers(0, 2000), most=st.integers(1, 65535))
def test_prefetch_is_always_one_that_can_be_asked_for(held: int, body: int, most: int) -> None:
    assert 1 <= holding(held, 1000).fitting_prefetch(body, most) <= most
