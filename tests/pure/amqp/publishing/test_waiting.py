"""The queues of publishes that wait: in order, exact, and only by ways that there are."""

from __future__ import annotations

import pytest

from mxworker.amqp.publishing.publishing import TRANSITIONS, Publishing, State
from mxworker.amqp.publishing.routes import Route
from mxworker.amqp.publishing.waiting import Waiting, take_first
from mxworker.errors import InvariantError

HERE, THERE, EXCHANGE = Route("", "q", 0), Route("", "p", 1), Route("e", "k", 0)
QUEUED = (State.WINDOW, State.CHANNEL, State.EXCHANGE, State.SAME_ID, State.RETRY)


def publishing(name: str, route: Route = HERE, state: State = State.NEW) -> Publishing:
    one = Publishing(route, name.encode(), b"", name.encode(), 0.0)
    one.state = state
    return one


def added(waiting: Waiting, state: State, *names: str, route: Route = HERE) -> list[Publishing]:
    before = State.SENT if state is State.RETRY else State.NEW
    publishings = [publishing(name, route, before) for name in names]
    for one in publishings:
        waiting.add(one, state)
    return publishings


def counted(waiting: Waiting, *has_channel: bool) -> dict[str, int]:
    """Return what is not nothing."""
    return {name: count for name, count in waiting.counts(has_channel or (True, True)).items() if count}


def test_what_is_put_first_goes_before_what_came_later_and_keeps_its_order() -> None:
    waiting = Waiting(2)
    (third,) = added(waiting, State.CHANNEL, "3")
    first, second = added(waiting, State.RETRY, "1", "2")
    (elsewhere,) = added(waiting, State.EXCHANGE, "elsewhere", route=EXCHANGE)
    waiting.add_first([first, elsewhere, second])
    assert list(waiting.channels[0]) == [first, elsewhere, second, third]
    assert counted(waiting) == {"room": 4}
    assert take_first(waiting.channels[0]) is first


def test_publish_leaves_its_queue_wherever_it_stands() -> None:
    for state in QUEUED:
        waiting = Waiting(2)
        publishings = added(waiting, state, "1", "2", "3", route=EXCHANGE)
        for one in (publishings[1], publishings[0], publishings[2]):
            waiting.remove(one)
            one.state = State.ENDED
        assert counted(waiting) == {}
        waiting.remove(publishings[0])


def test_counts_tell_a_channel_that_is_missing_from_one_without_room() -> None:
    waiting = Waiting(2)
    added(waiting, State.CHANNEL, "1", "2")
    added(waiting, State.CHANNEL, "3", route=THERE)
    assert counted(waiting, True, False) == {"room": 2, "connection": 1}
    assert counted(waiting, False, True) == {"room": 1, "connection": 2}


def test_those_of_one_id_and_channel_are_found_and_the_id_is_forgotten_after_the_last() -> None:
    waiting = Waiting(2)
    first, second = added(waiting, State.SAME_ID, "same", "same")
    (there,) = added(waiting, State.SAME_ID, "same", route=THERE)
    assert list(waiting.with_id_of(publishing("same"))) == [first, second]
    assert not waiting.with_id_of(publishing("other"))
    for one in (first, second, there):
        waiting.remove(one)
    assert waiting.ids == {}


def test_exchange_is_kept_until_it_is_answered() -> None:
    waiting = Waiting(1)
    (one,) = added(waiting, State.EXCHANGE, "1", route=EXCHANGE)
    waiting.remove(one)
    assert "e" in waiting.exchanges, "somebody still looks for it"
    waiting.answered("e")
    assert waiting.exchanges == {}


@pytest.mark.parametrize("state", QUEUED)
def test_publish_goes_only_where_its_state_leads(state: State) -> None:
    for before in State:
        waiting, one = Waiting(1), publishing("1", EXCHANGE, before)
        if state in TRANSITIONS[before]:
            waiting.add(one, state)
            assert one.state is state
        else:
            with pytest.raises(InvariantError):
                waiting.add(one, state)
            assert one.state is before
            assert sum(waiting.counts([True]).values()) == 0
