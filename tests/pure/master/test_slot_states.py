from collections.abc import Iterable

import pytest

from mxworker.board.lifecycle import WORKER_TRANSITIONS, WorkerState, next_worker_state
from mxworker.errors import InvariantError
from mxworker.master.slot import Slot
from mxworker.master.slot_states import SLOT_TRANSITIONS, Reason, SlotEvent, SlotState, next_slot_state

ALL_PAIRS = [(state, event) for state in SlotState for event in SlotEvent]
UNKNOWN_PAIRS = [pair for pair in ALL_PAIRS if pair not in SLOT_TRANSITIONS]


@pytest.mark.parametrize(("state", "event"), list(SLOT_TRANSITIONS))
def test_every_listed_event_leads_where_the_table_says(state: SlotState, event: SlotEvent) -> None:
    slot = Slot(1, state=state)
    slot.move(event, Reason.CRASH)
    assert slot.state is SLOT_TRANSITIONS[state, event]
    assert slot.reason is Reason.CRASH


@pytest.mark.parametrize(("state", "event"), UNKNOWN_PAIRS)
def test_unlisted_event_raises_and_leaves_the_state_unchanged(state: SlotState, event: SlotEvent) -> None:
    slot = Slot(1, state=state, reason=Reason.START)
    with pytest.raises(InvariantError, match=f"{state.name} does not know the event {event.name}"):
        slot.move(event, Reason.CRASH)
    assert slot.state is state
    assert slot.reason is Reason.START


def test_most_pairs_are_errors() -> None:
    assert len(UNKNOWN_PAIRS) > len(SLOT_TRANSITIONS)


def reachable(steps: Iterable[tuple[SlotState, SlotState]]) -> set[SlotState]:
    """Return the states to which any number of `steps` lead from EMPTY."""
    steps = list(steps)
    reached = {SlotState.EMPTY}
    while further := {to for start, to in steps if start in reached} - reached:
        reached |= further
    return reached


def test_every_slot_state_is_reached_from_empty() -> None:
    assert reachable((state, to) for (state, _), to in SLOT_TRANSITIONS.items()) == set(SlotState)


def test_empty_is_reached_from_every_slot_state() -> None:
    assert reachable((to, state) for (state, _), to in SLOT_TRANSITIONS.items()) == set(SlotState)


def test_only_a_vacant_slot_is_spawned_into() -> None:
    spawnable = {state for state, event in SLOT_TRANSITIONS if event is SlotEvent.SPAWNED}
    assert spawnable == {SlotState.EMPTY, SlotState.BACKOFF}


def test_only_reaping_empties_a_slot_with_a_process() -> None:
    with_process = set(SlotState) - {SlotState.EMPTY, SlotState.BACKOFF}
    vacating = {
        event for (state, event), to in SLOT_TRANSITIONS.items() if state in with_process and to not in with_process
    }
    assert vacating == {SlotEvent.LEFT, SlotEvent.FAILED}


def test_next_slot_state_names_the_unknown_pair() -> None:
    with pytest.raises(InvariantError, match="EMPTY does not know the event KILL"):
        next_slot_state(SlotState.EMPTY, SlotEvent.KILL)


@pytest.mark.parametrize("wanted", list(WorkerState))
@pytest.mark.parametrize("state", list(WorkerState))
def test_worker_goes_only_where_its_table_says(state: WorkerState, wanted: WorkerState) -> None:
    if wanted in WORKER_TRANSITIONS[state]:
        assert next_worker_state(state, wanted) is wanted
    else:
        with pytest.raises(InvariantError):
            next_worker_state(state, wanted)


def test_every_worker_state_has_a_row_and_is_reached_from_vacant() -> None:
    assert set(WORKER_TRANSITIONS) == set(WorkerState)
    reached = {WorkerState.VACANT}
    while True:
        further = set().union(*(WORKER_TRANSITIONS[state] for state in reached)) - reached
        if not further:
            break
        reached |= further
    assert reached == set(WorkerState)
