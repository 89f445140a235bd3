"""Which queues kill, found from the deaths of workers: the guilty one runs alone, and no other for long."""

from __future__ import annotations

import pytest

from mxworker.master.deadly_queues import CALM_NS, DEATHS, LONGEST_DOWN_NS, REST_NS, TRIAL_NS, WINDOW_NS, DeadlyQueues

S = 1_000_000_000
BOTH = {"busy", "deadly"}
IN_FLIGHT = {"busy": 30, "deadly": 1}
READY = [1, 2]


def found(now_ns: int = 10 * S) -> DeadlyQueues:
    """Return the state after three deaths in company and one alone."""
    queues = DeadlyQueues()
    for number in range(DEATHS):
        queues.died_in_company(IN_FLIGHT, BOTH, now_ns - number)
    queues.died_alone(1, "deadly", BOTH, now_ns)
    queues.look([2], now_ns)
    return queues


def test_three_deaths_within_a_minute_have_the_queue_tried_that_has_least_to_lose() -> None:
    queues = DeadlyQueues()
    for number in range(DEATHS):
        assert queues.to_run_alone == set()
        queues.died_in_company(IN_FLIGHT | ({"third": 1} if number else {}), BOTH, number * S)
    assert (queues.to_run_alone, queues.deadly) == ({"deadly"}, set())


def test_deaths_that_are_far_apart_have_none_tried() -> None:
    queues = DeadlyQueues()
    for number in range(9):
        queues.died_in_company(IN_FLIGHT, BOTH, number * (WINDOW_NS // 2 + 1))
    assert queues.to_run_alone == set()


def test_deaths_that_have_no_queue_in_common_have_none_tried() -> None:
    queues = DeadlyQueues()
    for in_flight in ({"a": 1}, {"b": 1}, {"a": 1}, {}):
        queues.died_in_company(in_flight, {"a", "b"}, 0)
    assert queues.to_run_alone == set()


def test_only_queue_of_a_service_is_let_be() -> None:
    queues = DeadlyQueues()
    for number in range(9):
        queues.died_in_company({"deadly": 1}, {"deadly"}, number)
        queues.died_alone(1, "deadly", {"deadly"}, number)
    assert queues.to_run_alone == set()


def test_death_alone_convicts_the_queue_that_is_tried() -> None:
    assert found().deadly == found().to_run_alone == {"deadly"}


def test_deaths_that_are_explained_are_held_against_no_other_queue() -> None:
    queues = found()
    queues.died_in_company({"busy": 1}, BOTH, 11 * S)
    assert queues.to_run_alone == {"deadly"}


def test_one_message_that_kills_convicts_no_queue_and_many_do_without_a_trial() -> None:
    queues = DeadlyQueues()
    for number in range(DEATHS):
        assert queues.to_run_alone == set()
        queues.died_alone(1, "deadly", BOTH, number * S)
    assert queues.deadly == {"deadly"}


def test_death_without_the_one_that_is_tried_has_the_next_tried() -> None:
    queues = DeadlyQueues()
    for number in range(DEATHS):
        queues.died_in_company({"rare": 1, "deadly": 9}, {"rare", "deadly"}, number)
    assert queues.to_run_alone == {"rare"}
    queues.died_in_company({"deadly": 9}, {"rare", "deadly"}, 10)
    assert queues.to_run_alone == {"deadly"}


def test_what_was_started_in_company_before_says_nothing_about_the_others() -> None:
    queues = found()
    for number in range(9):
        queues.died_in_company({"busy": 1, "deadly": 9}, BOTH, 11 * S + number)
        assert queues.to_run_alone == {"deadly"}


def test_trial_without_a_death_ends_and_needs_three_new_deaths() -> None:
    """Workers die of other things, too."""
    queues = DeadlyQueues()
    for number in range(DEATHS):
        queues.died_in_company(IN_FLIGHT, BOTH, number)
    queues.look([], TRIAL_NS)
    assert queues.to_run_alone, "no worker is there to try it"
    queues.look(READY, 2 * TRIAL_NS - 1)
    assert queues.to_run_alone
    assert queues.next_wakeup(2 * TRIAL_NS - 1) == 2 * TRIAL_NS
    queues.look(READY, 2 * TRIAL_NS)
    assert queues.to_run_alone == set()
    queues.died_in_company(IN_FLIGHT, BOTH, 2 * TRIAL_NS)
    assert queues.to_run_alone == set()


def test_trial_takes_no_time_while_the_service_rests_from_another_queue() -> None:
    queues = found(now_ns=0)
    for number in range(DEATHS):
        queues.died_in_company({"busy": 2, "third": 1}, {*BOTH, "third"}, number)
    back_ns = 2 * TRIAL_NS
    queues.look([2], back_ns - 1)
    queues.look(READY, back_ns)
    rested_ns = back_ns + 3 * back_ns
    queues.look(READY, rested_ns + TRIAL_NS - 1)
    assert "third" in queues.to_run_alone
    queues.look(READY, rested_ns + TRIAL_NS)
    assert "third" not in queues.to_run_alone


@pytest.mark.parametrize(("down_ns", "rest_ns"), [(S // 10, REST_NS), (5 * S, 15 * S)])
def test_service_rests_after_a_death_until_the_worker_is_back_and_for_three_times_as_long(
    down_ns: int, rest_ns: int
) -> None:
    queues = found(now_ns=10 * S)
    back_ns = 10 * S + down_ns
    queues.look([2], back_ns - 1)
    assert queues.rests(back_ns - 1)
    queues.look([1, 2], back_ns)
    assert queues.rests(back_ns + rest_ns - 1)
    assert queues.next_wakeup(back_ns) == back_ns + rest_ns
    assert not queues.rests(back_ns + rest_ns)


def test_nobody_waits_for_ever_for_a_worker_that_is_not_wanted_any_more() -> None:
    queues = found(now_ns=0)
    assert queues.next_wakeup(0) == LONGEST_DOWN_NS + 1
    queues.look([2], LONGEST_DOWN_NS + 1)
    assert not queues.rests(LONGEST_DOWN_NS + 1)


def test_queue_is_like_others_again_when_none_has_died_of_it_for_a_while_after_the_rest() -> None:
    queues = found(now_ns=0)
    queues.look(READY, S)
    over_ns = S + REST_NS + CALM_NS
    queues.look(READY, over_ns - 1)
    assert queues.deadly == {"deadly"}
    assert queues.next_wakeup(over_ns - 1) == over_ns
    queues.look(READY, over_ns)
    assert queues.to_run_alone == set()
    assert queues.next_wakeup(over_ns) is None
