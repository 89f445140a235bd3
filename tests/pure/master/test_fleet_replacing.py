"""The fleet replaces workers: reloads, recycles, scales. Made-up pids and times, see `world`."""

from __future__ import annotations

import pytest

from mxworker.board.lifecycle import Wish
from mxworker.config.bounds import MAX_WORKERS
from mxworker.master.plan import Cause, RollState
from mxworker.master.replacing import RECYCLE_AGAIN_NS, START_ATTEMPTS, STEADY_NS
from mxworker.master.slot import NS_PER_S, Order
from mxworker.master.slot_states import Reason, SlotState
from tests.pure.master.world import DRAIN_NS, World, running


def replace_one(world: World, *, trial: int, old: int) -> None:
    """Take one replacement from its start to the end of the one it is for, after those before have served a while."""
    world.run(STEADY_NS / NS_PER_S, *(process.slot for process in world.alive.values()))
    assert world.process(trial).is_on_trial
    assert world.orders(old) == []
    world.ready(trial)
    world.act()
    assert world.orders(old) == [Order.TERMINATE]
    assert world.exit(old, 0).as_asked


# ---- reload


def test_reload_starts_each_replacement_first_and_drains_the_old_one_when_it_consumes() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=3, old=1)
    replace_one(world, trial=1, old=2)
    world.act()
    assert world.fleet.roll.state is RollState.DONE
    assert {process.generation for process in world.alive.values()} == {2}
    assert world.fleet.ready == 2


def test_beating_is_not_enough_to_relieve() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.run(50, 1, 2)
    assert world.orders(1) == []
    assert world.state(2) is SlotState.RUNNING


def test_next_replacement_waits_until_the_old_worker_is_gone() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    world.act()
    world.ready(3)
    world.run(5, 1, 2, 3)
    assert world.spawns == 3
    world.exit(1, 0)
    world.act()
    assert world.spawns == 4


def test_old_worker_that_does_not_drain_is_killed_at_its_deadline_and_the_roll_goes_on() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.ready(2)
    world.run(DRAIN_NS / NS_PER_S + 1.001, 1, 2)
    assert world.orders(1) == [Order.TERMINATE, Order.KILL]
    ended = world.exit(1, -9)
    assert (ended.as_asked, ended.reason) == (False, Reason.DRAIN_TIMEOUT)
    world.act()
    assert world.fleet.roll.state is RollState.DONE
    assert world.state(1) is SlotState.EMPTY


def test_relieved_worker_that_did_not_drain_does_not_spoil_a_later_stop() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.ready(2)
    world.act()
    world.exit(1, 6)
    world.fleet.stop(world.now_ns)
    world.exit(2, 0)
    assert world.fleet.exit_code == 0


@pytest.mark.parametrize("status", [2, 3, 4])
def test_generation_that_cannot_start_is_refused_and_the_old_one_goes_on(status: int) -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    world.act()
    world.exit(3, status)
    assert world.fleet.roll.state is RollState.REFUSED
    assert f"exit code {status}" in world.fleet.roll.why
    world.run(300, 1, 2)
    assert world.spawns == 3
    assert world.orders(1) == world.orders(2) == []
    assert world.fleet.exit_code is None


def test_crashing_replacement_is_tried_as_often_as_a_first_start() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    for _ in range(START_ATTEMPTS):
        world.run(60, 1)
        world.exit(2, -11)
    world.run(300, 1)
    assert world.spawns == 1 + START_ATTEMPTS
    assert world.fleet.roll.state is RollState.REFUSED


@pytest.mark.parametrize(("status", "end"), [(3, "exit code 3"), (-11, "SIGSEGV")])
def test_replacement_that_dies_of_messages_is_tried_as_often_and_the_refusal_says_so(status: int, end: str) -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    for _ in range(START_ATTEMPTS):
        world.run(60, 1)
        world.exit(2, status, Cause.MESSAGES)
    assert world.spawns == 1 + START_ATTEMPTS
    assert world.fleet.roll.state is RollState.REFUSED
    assert world.fleet.roll.why == f"it ends with {end} while it handles messages"


def test_replacement_that_hangs_in_its_boot_is_not_tried_again() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.run(62, 1)
    assert Order.KILL in world.orders(2)
    world.exit(2, -9)
    assert world.fleet.roll.state is RollState.REFUSED
    assert world.fleet.roll.why == "it hangs"


def test_reload_after_a_refused_one_works() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.exit(2, 3)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=2, old=1)
    world.act()
    assert world.fleet.roll.state is RollState.DONE
    assert world.process(2).generation == 3


def test_reloads_coalesce_and_what_was_on_trial_with_older_code_is_dismissed() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.fleet.reload(world.now_ns)
    world.fleet.reload(world.now_ns)
    world.act()
    assert world.orders(2) == [Order.TERMINATE]
    assert world.exit(2, -15).as_asked
    replace_one(world, trial=2, old=1)
    world.act()
    assert world.fleet.roll.state is RollState.DONE
    assert world.process(2).generation == 4
    assert world.spawns == 3


def test_reload_during_a_roll_replaces_those_again_that_were_replaced() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=3, old=1)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=1, old=2)
    replace_one(world, trial=2, old=3)
    world.act()
    assert world.fleet.roll.state is RollState.DONE


def test_old_worker_that_dies_during_the_trial_is_not_started_again_beside_its_replacement() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    world.act()
    world.exit(1, -9)
    world.run(20, 2, 3)
    assert world.spawns == 3
    world.ready(3)
    replace_one(world, trial=1, old=2)
    world.act()
    assert world.fleet.roll.state is RollState.DONE
    assert world.fleet.ready == 2


def test_other_worker_that_dies_during_a_trial_comes_back_with_the_new_code() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    world.act()
    world.exit(2, -9)
    world.run(1, 1, 3)
    assert world.process(2).generation == 2
    world.ready(2, 3)
    world.act()
    world.exit(1, 0)
    world.act()
    assert world.fleet.roll.state is RollState.DONE
    assert world.spawns == 4


def test_roll_waits_for_a_worker_with_old_code_that_is_still_starting() -> None:
    world = running(2)
    world.exit(2, -9)
    world.run(1, 1)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=3, old=1)
    world.act()
    assert world.fleet.roll.state is RollState.ROLLING
    world.ready(2)
    replace_one(world, trial=1, old=2)
    world.act()
    assert world.fleet.roll.state is RollState.DONE


def test_hung_worker_that_comes_back_after_it_was_relieved_is_still_told_to_stop() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.run(30.2, 2)
    assert world.state(1) is SlotState.ABORTING
    world.ready(2)
    world.beat(1)
    world.act()
    assert world.orders(1) == [Order.DUMP, Order.TERMINATE]


def test_reload_makes_a_failing_slot_try_at_once() -> None:
    world = running(2)
    for _ in range(8):
        world.exit(2, 1)
        world.run(31, 1)
    world.exit(2, 1)
    world.fleet.reload(world.now_ns)
    world.act()
    assert world.process(2).generation == 2
    retry_in_s = world.exit(2, 1).retry_in_s
    assert retry_in_s is not None
    assert retry_in_s <= 0.5, "its failures were those of the old code"


def test_reload_before_anything_was_ready_gives_the_given_up_another_chance() -> None:
    world = World(2)
    world.act()
    world.exit(2, 3)
    world.fleet.reload(world.now_ns)
    world.act()
    assert world.process(2).generation == 2


def test_stop_during_a_reload_drains_all_three() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    world.act()
    world.ready(3)
    world.act()
    world.fleet.stop(world.now_ns)
    world.act()
    assert [world.orders(slot) for slot in (1, 2, 3)] == [[Order.TERMINATE]] * 3
    for slot in (1, 2, 3):
        world.exit(slot, 0)
    assert world.fleet.exit_code == 0


def test_stop_kills_a_relieved_worker_by_its_own_earlier_deadline() -> None:
    world = running(1)
    world.fleet.reload(world.now_ns)
    world.act()
    world.ready(2)
    world.run(5, 1, 2)
    world.fleet.stop(world.now_ns)
    world.run(6.001, 1, 2)
    assert Order.KILL in world.orders(1)
    assert Order.KILL not in world.orders(2)


def test_reload_during_a_stop_is_nothing() -> None:
    world = running(1)
    world.fleet.stop(world.now_ns)
    world.fleet.reload(world.now_ns)
    world.act()
    assert world.spawns == 1
    assert world.fleet.roll.state is RollState.NONE


def test_reload_in_a_burst_is_refused_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    world = running(1, burst=True)
    world.fleet.reload(world.now_ns)
    world.act()
    assert world.spawns == 1
    assert "no reload" in caplog.text


def test_worker_started_while_a_reload_is_refused_is_on_trial_until_the_next_one() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    world.act()
    world.exit(3, 4)
    world.exit(1, -9)
    world.run(1, 2)
    assert world.process(1).is_on_trial, "its code is the refused one"
    world.exit(1, 4)
    world.run(40, 2)
    assert world.process(1).is_on_trial
    world.fleet.scale(3, world.now_ns)
    world.act()
    assert world.process(3).is_on_trial


def test_roll_waits_for_a_new_worker_that_died_until_it_has_served_for_a_while() -> None:
    world = running(2)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=3, old=1)
    world.exit(3, -9)
    world.run(1, 2)
    world.ready(3)
    spawns = world.spawns
    world.run(STEADY_NS / NS_PER_S - 0.5, 2, 3)
    assert world.spawns == spawns
    world.run(1, 2, 3)
    replace_one(world, trial=1, old=2)
    world.act()
    assert world.fleet.roll.state is RollState.DONE


def test_code_that_starts_but_dies_is_refused_and_costs_one_worker_at_most() -> None:
    world = running(3)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=4, old=1)
    for _ in range(START_ATTEMPTS):
        world.ready(4)
        world.run(1, 2, 3, 4)
        world.exit(4, -11)
        world.run(3, 2, 3)
    assert world.fleet.roll.state is RollState.REFUSED
    assert "die" in world.fleet.roll.why
    world.run(300, 2, 3)
    assert world.orders(2) == world.orders(3) == []
    assert world.fleet.ready == 2


# ---- recycle


@pytest.mark.parametrize("wish", [wish for wish in Wish if wish])
def test_worker_that_wishes_it_is_replaced_and_works_until_then(wish: Wish) -> None:
    world = running(2)
    world.wish(2, wish)
    replace_one(world, trial=3, old=2)
    world.act()
    assert world.spawns == 3
    assert world.process(3).generation == 1


def test_one_is_recycled_at_a_time_and_the_oldest_first() -> None:
    world = running(3)
    world.exit(1, -9)
    world.run(1, 2, 3)
    world.ready(1)
    for slot in (1, 2, 3):
        world.wish(slot)
    replace_one(world, trial=4, old=2)
    replace_one(world, trial=2, old=3)
    replace_one(world, trial=3, old=1)
    world.act()
    assert world.fleet.ready == 3


def test_replacement_that_cannot_start_leaves_the_old_worker_and_is_tried_again_later() -> None:
    world = running(1)
    world.wish(1)
    world.act()
    world.exit(2, 3)
    world.run(RECYCLE_AGAIN_NS / NS_PER_S - 1, 1)
    assert world.spawns == 2
    assert world.orders(1) == []
    world.run(1.1, 1)
    replace_one(world, trial=2, old=1)


def test_master_wakes_for_the_later_try_though_nothing_else_happens() -> None:
    world = running(1)
    world.wish(1)
    world.act()
    world.exit(2, 3)
    assert world.fleet.next_wakeup(world.now_ns) == world.now_ns + RECYCLE_AGAIN_NS


def test_reload_comes_before_recycling() -> None:
    world = running(2)
    world.wish(2)
    world.fleet.reload(world.now_ns)
    replace_one(world, trial=3, old=1)
    replace_one(world, trial=1, old=2)
    world.act()
    assert world.spawns == 4


# ---- scale


def test_scaling_up_starts_workers_at_once() -> None:
    world = running(1)
    world.fleet.scale(4, world.now_ns)
    world.act()
    assert len(world.alive) == 4
    assert not any(process.is_on_trial for process in world.alive.values())


def test_scaling_down_drains_the_youngest_slots() -> None:
    world = running(3)
    world.fleet.scale(1, world.now_ns)
    world.act()
    assert [world.orders(slot) for slot in (1, 2, 3)] == [[], [Order.TERMINATE], [Order.TERMINATE]]
    assert world.exit(2, 0).reason is Reason.SCALE
    world.exit(3, 0)
    world.run(100, 1)
    assert world.spawns == 3
    assert world.fleet.exit_code is None


def test_scaling_down_lets_those_go_first_that_do_not_work() -> None:
    world = running(3)
    world.exit(1, -9)
    world.fleet.scale(2, world.now_ns)
    world.run(100, 2, 3)
    assert world.state(1) is SlotState.EMPTY
    assert world.orders(2) == world.orders(3) == []


def test_slot_that_was_given_up_and_then_scaled_away_stays_away_until_it_is_wanted_again() -> None:
    world = World(2)
    world.act()
    world.exit(2, 3)
    world.fleet.scale(1, world.now_ns)
    world.ready(1)
    world.run(100, 1)
    assert world.state(2) is SlotState.EMPTY
    assert world.spawns == 2
    world.fleet.scale(2, world.now_ns)
    world.act()
    assert world.state(2) is SlotState.STARTING


def test_scaling_down_during_a_reload_begins_the_replacement_anew() -> None:
    world = running(3)
    world.fleet.reload(world.now_ns)
    world.act()
    world.fleet.scale(2, world.now_ns)
    world.act()
    assert world.orders(4) == [Order.TERMINATE]
    assert world.orders(3) == [Order.TERMINATE]
    world.exit(4, -15)
    world.exit(3, 0)
    replace_one(world, trial=3, old=1)
    replace_one(world, trial=1, old=2)
    world.act()
    assert world.fleet.roll.state is RollState.DONE


def test_scaling_during_a_stop_is_nothing() -> None:
    world = running(2)
    world.fleet.stop(world.now_ns)
    world.fleet.scale(4, world.now_ns)
    world.act()
    assert (world.fleet.wanted, world.spawns) == (2, 2)


@pytest.mark.parametrize("workers", [0, -1, MAX_WORKERS + 1])
def test_impossible_number_of_workers_changes_nothing(workers: int) -> None:
    world = running(2)
    with pytest.raises(ValueError, match="from 1 to 512"):
        world.fleet.scale(workers, world.now_ns)
    assert world.fleet.wanted == 2


def test_slots_never_outgrow_the_board() -> None:
    world = running(2)
    world.fleet.scale(MAX_WORKERS, world.now_ns)
    world.act()
    world.fleet.scale(1, world.now_ns)
    with pytest.raises(ValueError, match="511 others are still leaving"):
        world.fleet.scale(MAX_WORKERS, world.now_ns)
    assert len(world.fleet.slots) <= MAX_WORKERS + 1
