"""Turns to run a suspect alone: one at a time, in rotation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxworker.master.isolation_turns import IsolationTurn, IsolationTurns


def test_next_turn_comes_when_the_present_one_is_over() -> None:
    turns = IsolationTurns()
    assert turns.next({}) is None
    assert turns.next({2: 1, 3: 1}) == IsolationTurn(2, 1)
    assert turns.next({2: 1, 3: 1}) is None
    assert turns.next({3: 1}) == IsolationTurn(3, 1)
    assert turns.next({}) is None


def test_new_request_of_who_has_the_turn_comes_after_the_others() -> None:
    turns = IsolationTurns()
    assert turns.next({1: 1, 2: 1}) == IsolationTurn(1, 1)
    assert turns.next({1: 2, 2: 1}) == IsolationTurn(2, 1)
    assert turns.next({1: 2}) == IsolationTurn(1, 2)


def test_turn_ends_with_its_worker() -> None:
    turns = IsolationTurns()
    assert turns.next({1: 1}) == IsolationTurn(1, 1)
    assert turns.next({}) is None
    assert turns.next({1: 1}) == IsolationTurn(1, 1), "the successor counts from 1 again"


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=200))
def test_nobody_waits_longer_than_all_others_have_a_turn(events: list[tuple[int, bool]]) -> None:
    turns, wanted, waited, present = IsolationTurns(), dict[int, int](), dict[int, int](), None
    for number, (slot, wants) in enumerate(events, 1):
        if wants and slot not in wanted:
            wanted[slot] = number
        elif not wants:
            wanted.pop(slot, None)
            waited.pop(slot, None)
        given_now = turns.next(wanted)
        if given_now is None:
            continue
        assert present is None or wanted.get(present.slot) != present.request
        present = given_now
        waited.pop(present.slot, None)
        for other in wanted.keys() - {present.slot}:
            waited[other] = waited.get(other, 0) + 1
            assert waited[other] <= 5
