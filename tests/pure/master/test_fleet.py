"""The fleet with made-up pids and times: starting, hanging, stopping; for replacements see `test_fleet_replacing`."""

from __future__ import annotations

import signal

import pytest

from mxworker.board.lifecycle import Wish
from mxworker.errors import ExitCode
from mxworker.master.plan import Cause, Look, Send, Spawn
from mxworker.master.replacing import START_ATTEMPTS
from mxworker.master.slot import NS_PER_S, Order
from mxworker.master.slot_states import Reason, SlotState
from tests.pure.master.world import DRAIN_NS, World, running

# ---- starting


def test_every_slot_is_spawned_at_once_and_only_once() -> None:
    world = World(3)
    assert [action.slot for action in world.act() if isinstance(action, Spawn)] == [1, 2, 3]
    assert world.act() == []


def test_first_beat_makes_a_slot_running() -> None:
    world = World(1)
    world.act()
    assert world.state(1) is SlotState.STARTING
    world.beat()
    assert world.state(1) is SlotState.RUNNING


def test_repr_tells_state_and_process_of_each_slot() -> None:
    world = running(2)
    world.exit(2, -9)
    assert repr(world.fleet) == "<Fleet 1:RUNNING(101) 2:BACKOFF(-)>"


def test_look_that_brings_no_beat_changes_no_state() -> None:
    world = World(1)
    world.act()
    world.fleet.observe(1, Look(world.process(1).deadline_ns), world.now_ns)
    assert world.state(1) is SlotState.STARTING


def test_worker_that_drains_is_not_counted_as_ready_though_the_board_says_so_still() -> None:
    world = running(2)
    assert world.fleet.ready == 2
    world.fleet.scale(1, world.now_ns)
    world.ready(2)
    assert world.fleet.ready == 1


def test_vacant_slot_shows_nothing_of_the_process_that_was_there() -> None:
    world = running(1)
    world.wish(1, Wish.AGE)
    world.exit(1, -9)
    world.fleet.observe(1, Look(world.now_ns, is_ready=True, wish=Wish.AGE), world.now_ns)
    assert world.fleet.ready == 0
    assert world.fleet.slots[0].wish is Wish.NONE


def test_state_changes_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world = running(1)
    world.beat()
    world.beat()
    world.fleet.stop(world.now_ns)
    assert [record.getMessage() for record in caplog.records] == [
        "slot 1 EMPTY -> STARTING (start)",
        "slot 1 STARTING -> RUNNING (beat)",
        "slot 1 RUNNING -> STOPPING (stop)",
    ]


def test_slot_counts_its_processes() -> None:
    world = running(1)
    world.exit(1, -9)
    world.run(1)
    assert world.fleet.slots[0].spawns == 2
    assert world.fleet.slots[0].generation == 1, "the code is the same"


def test_failed_fork_is_tried_again_later_and_gives_no_slot_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world = World(1)
    for _ in range(20):
        (spawn,) = world.fleet.plan(world.now_ns)
        assert isinstance(spawn, Spawn)
        world.fleet.spawn_failed(spawn, world.now_ns)
        assert world.state(1) is SlotState.BACKOFF
        wakeup_ns = world.fleet.next_wakeup(world.now_ns)
        assert wakeup_ns is not None
        world.now_ns = wakeup_ns
    assert world.fleet.exit_code is None
    assert len(caplog.records) == 1, "the slot is in BACKOFF all the time"


# ---- failing before anything was ready


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.APP_LOAD, ExitCode.BROKER])
def test_all_slots_refusing_alike_end_the_service_with_their_code(code: ExitCode) -> None:
    world = World(2)
    world.act()
    world.exit(1, code)
    assert world.fleet.exit_code is None
    world.run(1)
    assert world.spawns == 2
    world.exit(2, code)
    assert world.fleet.exit_code is code


def test_slots_refusing_differently_end_the_service_with_never_ready() -> None:
    world = World(2)
    world.act()
    world.exit(1, ExitCode.USAGE)
    world.exit(2, ExitCode.APP_LOAD)
    assert world.fleet.exit_code is ExitCode.NEVER_READY


@pytest.mark.parametrize("status", [1, 0, -signal.SIGSEGV, 77])
def test_crashing_boot_is_tried_a_bounded_number_of_times(status: int) -> None:
    world = World(2)
    for _ in range(START_ATTEMPTS):
        world.run(40)
        world.exit(1, status)
        world.exit(2, status)
    world.run(100)
    assert world.spawns == 2 * START_ATTEMPTS
    assert world.fleet.exit_code is ExitCode.NEVER_READY


def test_hanging_boot_is_aborted_and_counts_as_a_failure() -> None:
    world = World(1)
    for _ in range(START_ATTEMPTS):
        world.run(40)
        pid = world.process(1).pid
        while Order.KILL not in world.process(1).orders:
            world.run(0.1)
            assert world.process(1).pid == pid
        assert world.exit(1, -9).reason is Reason.HANG
    assert world.fleet.exit_code is ExitCode.NEVER_READY


def test_slot_given_up_is_wanted_again_once_another_is_ready() -> None:
    world = World(2)
    world.act()
    world.exit(1, ExitCode.APP_LOAD)
    world.beat()
    world.run(5, 2)
    assert world.state(1) is SlotState.EMPTY
    world.fleet.became_ready(world.now_ns)
    assert world.state(1) is SlotState.BACKOFF
    world.run(1, 2)
    assert world.state(1) is SlotState.STARTING


def test_slow_connect_does_not_reset_the_count_of_boot_failures() -> None:
    world = World(1)
    for _ in range(START_ATTEMPTS):
        world.run(100, 1)
        world.exit(1, 1)
    assert world.fleet.exit_code is ExitCode.NEVER_READY


@pytest.mark.parametrize("cause", [Cause.MESSAGES, Cause.DEADLY_QUEUE])
@pytest.mark.parametrize("status", [1, 3, -signal.SIGSEGV])
def test_deaths_that_messages_may_have_caused_are_no_failed_starts(cause: Cause, status: int) -> None:
    world = World(2)
    world.act()
    for _ in range(20):
        world.exit(1, status, cause)
        world.exit(2, status, cause)
        world.run(31)
    assert world.fleet.exit_code is None
    assert world.spawns == 42


def test_start_that_fails_between_such_deaths_is_given_up_after_its_tries() -> None:
    world = World(1)
    world.act()
    for _ in range(START_ATTEMPTS):
        assert world.fleet.exit_code is None
        world.exit(1, -11, Cause.MESSAGES)
        world.run(31)
        world.exit(1, -11)
        world.run(31)
    assert world.fleet.exit_code is ExitCode.NEVER_READY


def test_failed_forks_take_no_try_of_a_start_away() -> None:
    world = World(1)
    for _ in range(START_ATTEMPTS):
        (spawn,) = world.fleet.plan(world.now_ns)
        assert isinstance(spawn, Spawn)
        world.fleet.spawn_failed(spawn, world.now_ns)
        world.now_ns += 31 * NS_PER_S
    world.act()
    world.exit(1, 1)
    assert world.fleet.exit_code is None


# ---- failing after something was ready


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 6, -9, -11])
def test_after_ready_a_failing_slot_is_tried_for_ever_with_backoff_and_siblings_stay(status: int) -> None:
    world = running(2)
    sibling = world.process(2).pid
    for _ in range(50):
        ended = world.exit(1, status)
        assert ended.retry_in_s is not None
        assert 0 <= ended.retry_in_s <= 30
        world.run(31, 2)
    assert world.spawns == 52
    assert world.process(2).pid == sibling
    assert world.orders(2) == []
    assert world.fleet.exit_code is None


def test_crash_loop_is_slowed_down() -> None:
    world = running(1)
    start_ns, forks = world.now_ns, world.spawns
    while world.now_ns < start_ns + 600 * NS_PER_S:
        if world.alive:
            world.exit(1, 1)
        world.run(0.5)
    assert world.spawns - forks < 80


def test_worker_that_a_queue_has_killed_is_started_again_at_once_and_its_slot_has_not_failed() -> None:
    world = running(2)
    for _ in range(20):
        assert world.exit(1, -11, Cause.DEADLY_QUEUE).retry_in_s == 0
        world.run(1)
    assert world.spawns == 22
    assert world.fleet.slots[0].failures == 0


def test_failures_that_turn_out_to_be_a_queues_fault_are_forgiven() -> None:
    world = running(2)
    for _ in range(6):
        world.exit(1, -11)
        world.run(31, 2)
    world.exit(1, -11)
    spawns = world.spawns
    world.fleet.forgive(world.now_ns)
    world.act()
    assert world.spawns == spawns + 1
    assert world.fleet.slots[0].failures == 0


def test_rounds_of_a_crash_loop_are_told_at_debug_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = running(1)
    for _ in range(50):
        world.exit(1, 1)
        world.run(31)
    world.fleet.stop(world.now_ns)
    assert caplog.records == []


def test_first_failure_after_work_waits_half_a_second_at_most() -> None:
    for seed in range(50):
        world = World(1, seed=seed)
        world.act()
        world.fleet.became_ready(world.now_ns)
        for _ in range(5):
            world.exit(1, 1)
            world.run(31)
        world.beat()
        world.run(61, 1)
        retry_in_s = world.exit(1, -9).retry_in_s
        assert retry_in_s is not None
        assert retry_in_s <= 0.5


def test_exit_tells_how_it_was() -> None:
    world = running(1)
    world.run(12, 1)
    pid = world.process(1).pid
    ended = world.exit(1, -9)
    assert (ended.slot, ended.pid, ended.status, ended.reason, ended.as_asked) == (1, pid, -9, Reason.CRASH, False)
    assert ended.uptime_s == pytest.approx(12)


# ---- hanging


def hang(world: World) -> int:
    """Let slot 1 miss its deadline and return the instant of the deadline."""
    deadline_ns = world.process(1).deadline_ns
    world.run((deadline_ns - world.now_ns) / NS_PER_S, 2)
    assert world.orders(1) == []
    world.run(0.01, 2)
    return deadline_ns


def test_worker_that_dies_of_a_signal_while_it_drains_was_not_asked_for_that() -> None:
    world = running(2)
    world.fleet.scale(1, world.now_ns)
    world.act()
    assert world.exit(2, -signal.SIGSEGV).is_unasked
    world.fleet.stop(world.now_ns)
    world.run(DRAIN_NS / NS_PER_S + 1.001, 1)
    assert not world.exit(1, -signal.SIGKILL).is_unasked, "the master had killed it"


def test_worker_whose_slot_makes_no_sense_is_killed_at_once_and_replaced_with_backoff() -> None:
    world = running(2)
    world.fleet.broke(1, "STATE is 255", world.now_ns)
    assert world.fleet.next_wakeup(world.now_ns) == world.now_ns
    world.act()
    assert (world.orders(1), world.state(1)) == ([Order.KILL], SlotState.KILLING)
    world.fleet.broke(1, "STATE is 255", world.now_ns)
    world.run(1, 2)
    assert world.orders(1) == [Order.KILL], "once is enough"
    ended = world.exit(1, -9)
    assert (ended.reason, ended.is_unasked, ended.was_killed) == (Reason.BROKEN, True, True)
    assert world.state(1) is SlotState.BACKOFF
    assert world.orders(2) == []
    world.fleet.broke(1, "what it left", world.now_ns)
    assert world.state(1) is SlotState.BACKOFF, "there is no process"


def test_broken_worker_is_not_asked_where_it_is_although_its_beats_are_not_believed() -> None:
    world = running(2)
    world.now_ns = world.process(1).deadline_ns + 1
    world.beat(2)
    world.fleet.broke(1, "STATE is 255", world.now_ns)
    world.act()
    assert world.orders(1) == [Order.KILL]


@pytest.mark.parametrize("late", [False, True])
def test_broken_worker_does_not_count_as_ready_and_ends_its_abortion(late: bool) -> None:
    world = running(2)
    if late:
        hang(world)
    world.ready(2)
    world.fleet.broke(1, "STATE is 255", world.now_ns)
    assert world.fleet.ready == 1
    world.act()
    assert world.orders(1)[-1] is Order.KILL
    assert world.exit(1, -9).reason is Reason.BROKEN


def test_stop_in_which_a_worker_breaks_ends_with_an_error() -> None:
    world = running(1)
    world.fleet.stop(world.now_ns)
    world.fleet.broke(1, "STATE is 255", world.now_ns)
    world.act()
    world.exit(1, -9)
    assert world.fleet.exit_code is ExitCode.RUNTIME


def test_late_worker_is_asked_aborted_and_killed_half_a_second_apart() -> None:
    world = running(2)
    hang(world)
    assert (world.orders(1), world.state(1)) == ([Order.DUMP], SlotState.ABORTING)
    world.run(0.45, 2)
    assert world.orders(1) == [Order.DUMP]
    world.run(0.1, 2)
    assert (world.orders(1), world.state(1)) == ([Order.DUMP, Order.ABORT], SlotState.ABORTING)
    world.run(0.5, 2)
    assert (world.orders(1), world.state(1)) == ([Order.DUMP, Order.ABORT, Order.KILL], SlotState.KILLING)
    assert world.orders(2) == []
    assert world.exit(1, -9).reason is Reason.HANG


def test_hung_worker_is_replaced_within_two_seconds_of_its_deadline() -> None:
    for seed in range(50):
        world = World(1, seed=seed)
        world.act()
        world.beat()
        world.fleet.became_ready(world.now_ns)
        deadline_ns = hang(world)
        while Order.KILL not in world.orders(1):
            world.run(0.01)
        world.exit(1, -9)
        while not world.alive:
            world.run(0.01)
        assert world.now_ns - deadline_ns < 2 * NS_PER_S


def test_beat_before_sigabrt_brings_a_late_worker_back() -> None:
    world = running(2)
    hang(world)
    world.beat(1)
    assert world.state(1) is SlotState.RUNNING
    world.run(10, 1, 2)
    assert world.orders(1) == [Order.DUMP]


def test_late_worker_that_came_back_has_still_worked_as_long_as_it_has() -> None:
    world = running(2)
    for _ in range(8):
        world.exit(1, 1)
        world.run(31, 2)
    world.run(61, 1, 2)
    hang(world)
    world.beat(1)
    retry_in_s = world.exit(1, -9).retry_in_s
    assert retry_in_s is not None
    assert retry_in_s <= 0.5


def test_beat_after_sigabrt_does_not() -> None:
    world = running(2)
    hang(world)
    world.run(0.6, 2)
    world.beat(1)
    assert world.state(1) is SlotState.ABORTING
    world.run(0.5, 2)
    assert world.state(1) is SlotState.KILLING


def test_oversleeping_master_judges_nobody_for_a_round() -> None:
    world = running(2)
    world.now_ns += 100 * NS_PER_S
    world.fleet.overslept(world.now_ns)
    assert world.act() == []
    world.run(0.5)
    world.beat(2)
    world.run(1.4, 2)
    assert world.orders(1) == []
    world.run(0.2, 2)
    assert world.orders(1) == [Order.DUMP]
    assert world.orders(2) == []


def test_without_an_oversleep_the_same_lateness_is_judged() -> None:
    world = running(2)
    world.now_ns += 100 * NS_PER_S
    assert {action.order for action in world.act() if isinstance(action, Send)} == {Order.DUMP}


def test_a_hang_is_under_repair_until_the_killed_worker_is_not_reaped_for_ten_seconds() -> None:
    world = running(2)
    hang(world)
    world.run(1.1, 2)
    assert world.orders(1)[-1] is Order.KILL
    assert not world.fleet.is_beyond_repair(world.now_ns)
    world.run(9.8, 2)
    assert not world.fleet.is_beyond_repair(world.now_ns)
    world.run(0.3, 2)
    assert world.fleet.is_beyond_repair(world.now_ns)


def test_a_worker_reaped_at_last_was_not_beyond_repair_and_neither_is_its_successor() -> None:
    world = running(2)
    hang(world)
    world.run(30, 2)
    assert world.fleet.is_beyond_repair(world.now_ns)
    world.exit(1, -9)
    assert not world.fleet.is_beyond_repair(world.now_ns)
    world.run(20, 1, 2)
    assert world.state(1) is SlotState.RUNNING
    assert not world.fleet.is_beyond_repair(world.now_ns)


# ---- stopping


def test_stop_terminates_each_worker_once_and_ends_with_zero() -> None:
    world = running(2)
    for _ in range(5):
        world.fleet.stop(world.now_ns)
        world.run(0.5, 1, 2)
    assert world.orders(1) == world.orders(2) == [Order.TERMINATE]
    world.exit(1, 0)
    assert world.fleet.exit_code is None
    assert world.exit(2, 0).as_asked
    assert world.fleet.exit_code is ExitCode.OK


def test_stop_empties_a_slot_in_backoff_and_nothing_is_spawned_any_more() -> None:
    world = running(2)
    world.exit(1, -9)
    world.fleet.stop(world.now_ns)
    assert world.state(1) is SlotState.EMPTY
    world.exit(2, 0)
    world.run(100)
    assert world.spawns == 2
    assert world.fleet.exit_code is ExitCode.OK


def test_worker_killed_by_sigterm_before_it_had_a_handler_drained_cleanly() -> None:
    world = World(1)
    world.act()
    world.fleet.stop(world.now_ns)
    world.act()
    assert world.exit(1, -signal.SIGTERM).as_asked
    assert world.fleet.exit_code is ExitCode.OK


def test_drain_deadline_is_the_timeout_plus_a_second_and_means_code_6() -> None:
    world = running(1)
    world.fleet.stop(world.now_ns)
    world.run(10.9, 1)
    assert world.orders(1) == [Order.TERMINATE]
    world.run(0.2, 1)
    assert world.orders(1) == [Order.TERMINATE, Order.KILL]
    assert world.exit(1, -9).reason is Reason.DRAIN_TIMEOUT
    assert world.fleet.exit_code is ExitCode.DRAIN_TIMEOUT


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((0, 0), ExitCode.OK),
        ((0, 6), ExitCode.DRAIN_TIMEOUT),
        ((6, 1), ExitCode.DRAIN_TIMEOUT),
        ((1, 0), ExitCode.RUNTIME),
    ],
)
def test_worst_worker_decides_the_code_of_a_drain(statuses: tuple[int, int], code: ExitCode) -> None:
    world = running(2)
    world.fleet.stop(world.now_ns)
    world.act()
    world.exit(1, statuses[0])
    world.exit(2, statuses[1])
    assert world.fleet.exit_code is code


def test_worker_hanging_in_its_drain_is_aborted_and_means_code_6() -> None:
    world = running(1)
    world.run(25)
    world.fleet.stop(world.now_ns)
    world.run(6.5)
    assert world.orders(1) == [Order.TERMINATE, Order.DUMP, Order.ABORT, Order.KILL]
    world.exit(1, -9)
    assert world.fleet.exit_code is ExitCode.DRAIN_TIMEOUT


def test_abort_during_a_drain_stays_inside_its_bound() -> None:
    world = running(1)
    world.run(19.5)  # the heartbeat deadline comes at 30 s, the bound of the drain at 30.5 s
    world.fleet.stop(world.now_ns)
    world.run(11.01)
    assert world.orders(1)[-1] is Order.KILL


def test_second_stop_does_not_move_the_bound_of_the_first() -> None:
    world = running(1)
    world.run(19.5)
    world.fleet.stop(world.now_ns)
    deadline_ns = world.fleet.stop_deadline_ns
    world.run(8)
    world.fleet.stop(world.now_ns)
    assert world.fleet.stop_deadline_ns == deadline_ns
    world.run(3.01)
    assert world.orders(1)[-1] is Order.KILL


def test_stop_during_an_abort_lets_it_finish() -> None:
    world = running(2)
    hang(world)
    world.fleet.stop(world.now_ns)
    world.run(1.1, 2)
    assert world.orders(1) == [Order.DUMP, Order.ABORT, Order.KILL]
    assert world.orders(2) == [Order.TERMINATE]


def test_late_worker_that_comes_back_during_a_stop_is_told_to_stop() -> None:
    world = running(2)
    hang(world)
    world.fleet.stop(world.now_ns)
    world.beat(1)
    world.run(0.1, 1, 2)
    assert world.state(1) is SlotState.STOPPING
    assert world.orders(1) == [Order.DUMP, Order.TERMINATE]
    world.run(11, 1, 2)
    assert world.orders(1)[-1] is Order.KILL


def test_cut_short_follows_terminate_and_means_forced() -> None:
    world = running(1)
    world.fleet.stop(world.now_ns)
    world.fleet.cut_short(world.now_ns)
    world.act()
    assert world.orders(1) == [Order.TERMINATE, Order.CUT_SHORT]
    world.exit(1, 0)
    assert world.fleet.exit_code is ExitCode.FORCED


def test_cut_short_is_a_stop_too() -> None:
    world = running(1)
    world.fleet.cut_short(world.now_ns)
    world.act()
    assert world.orders(1) == [Order.TERMINATE, Order.CUT_SHORT]


def test_kill_kills_everything_at_once_and_means_forced() -> None:
    world = running(2)
    hang(world)
    world.fleet.kill(world.now_ns)
    world.act()
    assert world.orders(1) == [Order.DUMP, Order.KILL]
    assert world.orders(2) == [Order.KILL]
    world.fleet.kill(world.now_ns)
    assert world.act() == []
    world.exit(1, -9)
    world.exit(2, -9)
    assert world.fleet.exit_code is ExitCode.FORCED


def test_ready_during_a_stop_revives_nothing() -> None:
    world = World(2)
    world.act()
    world.exit(1, 3)
    world.fleet.stop(world.now_ns)
    world.fleet.became_ready(world.now_ns)
    assert world.state(1) is SlotState.EMPTY
    world.run(5, 2)
    assert world.spawns == 2


# ---- burst


def test_burst_worker_that_finished_retires_its_slot() -> None:
    world = running(2, burst=True)
    world.finish(1)
    world.run(100, 2)
    assert world.state(1) is SlotState.EMPTY
    assert world.fleet.exit_code is None
    world.finish(2)
    assert world.fleet.exit_code is ExitCode.OK


def test_killed_burst_worker_is_respawned() -> None:
    world = running(1, burst=True)
    world.exit(1, -9)
    world.run(1)
    assert world.spawns == 2
    world.finish(1)
    assert world.fleet.exit_code is ExitCode.OK


def test_finished_burst_worker_proves_that_the_service_works() -> None:
    world = World(2, burst=True)
    world.act()
    world.exit(1, 3)
    world.finish(2)
    assert world.fleet.exit_code is None
    world.run(1)
    world.finish(1)
    assert world.fleet.exit_code is ExitCode.OK


def test_burst_worker_that_left_before_its_queues_were_empty_is_started_again() -> None:
    world = running(1, burst=True)
    assert not world.exit(1, 0).as_asked
    assert world.fleet.exit_code is None
    world.run(1)
    assert world.spawns == 2
    assert world.finish(1).as_asked
    assert world.fleet.exit_code is ExitCode.OK
