"""When the observer is started, started again, and killed."""

from __future__ import annotations

import random

import pytest

from mxworker.errors import InvariantError
from mxworker.master.observer_states import OBSERVER_TRANSITIONS, Action, ObserverEvent, ObserverPlan, ObserverState

S = 1_000_000_000


def serving(now_ns: int = 0, timeout_ns: int = 30 * S) -> ObserverPlan:
    plan = ObserverPlan(random.Random(1))
    assert plan.plan(now_ns) is Action.START
    plan.spawned(now_ns + timeout_ns, now_ns)
    plan.observe(now_ns + timeout_ns + 1)
    assert plan.state is ObserverState.SERVING
    return plan


def test_observer_is_started_at_once_and_then_left_alone() -> None:
    plan = serving()
    assert plan.plan(30 * S + 1) is None
    assert plan.next_wakeup() == 30 * S + 2


def test_observer_that_misses_its_heartbeat_is_killed_once() -> None:
    plan = serving()
    assert plan.plan(31 * S) is Action.KILL
    assert plan.plan(32 * S) is None
    assert plan.next_wakeup() is None
    plan.observe(99 * S)  # too late
    assert plan.state is ObserverState.KILLING


def test_observer_that_never_beats_is_killed() -> None:
    plan = ObserverPlan(random.Random(1))
    plan.spawned(5 * S, 0)
    plan.observe(5 * S)
    assert plan.state is ObserverState.STARTING
    assert plan.plan(5 * S + 1) is Action.KILL


def test_no_judgement_after_the_master_overslept() -> None:
    plan = serving()
    plan.overslept(40 * S)
    assert plan.plan(41 * S) is None
    assert plan.next_wakeup() == 42 * S
    assert plan.plan(42 * S) is Action.KILL


def test_dead_observer_is_started_again_after_a_growing_wait() -> None:
    plan = serving()
    now_ns, waits = 1 * S, []
    for _ in range(200):
        wait_s = plan.ended(now_ns)
        waits.append(wait_s)
        due_ns = plan.next_wakeup()
        assert due_ns == now_ns + round(wait_s * S)
        assert due_ns == now_ns or plan.plan(due_ns - 1) is None
        assert plan.plan(due_ns) is Action.START
        plan.spawned(due_ns + 30 * S, due_ns)
        now_ns = due_ns
    assert waits[0] <= 0.5
    assert 10 < max(waits) <= 30


def test_observer_that_served_for_a_minute_is_started_again_soon() -> None:
    plan = serving()
    for _ in range(20):
        plan.ended(1 * S)
        plan.spawned(2 * S, 1 * S)
    assert plan.ended(61 * S) <= 0.5


def test_fork_that_fails_is_tried_again_later() -> None:
    plan = ObserverPlan(random.Random(1))
    wait_s = plan.failed(0)
    assert plan.state is ObserverState.VACANT
    assert plan.next_wakeup() == round(wait_s * S)


@pytest.mark.parametrize("state", ObserverState)
@pytest.mark.parametrize("event", ObserverEvent)
def test_unknown_event_is_a_bug_and_changes_nothing(state: ObserverState, event: ObserverEvent) -> None:
    if (state, event) in OBSERVER_TRANSITIONS:
        return
    plan = ObserverPlan(random.Random(1))
    plan.state = state
    with pytest.raises(InvariantError):
        plan._move(event)
    assert plan.state is state
