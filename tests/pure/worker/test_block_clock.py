"""Only a time in which the loop could have run, and did not, counts as blocked."""

from __future__ import annotations

import pytest

from mxworker.worker.block_clock import LOOK_EVERY_S, BlockClock, Ran, Spent, Standstill, StandstillClock


def looking(*looks: tuple[float, float, float]) -> BlockClock:
    """Return the clock after looks: each is the time since the last one, that on a CPU, and that waiting for one."""
    clock = BlockClock()
    now, running_s, queued_s = 1000.0, 5.0, 7.0
    clock.restart(now, Spent(running_s, queued_s))
    for since_s, ran_s, waited_s in looks:
        now, running_s, queued_s = now + since_s, running_s + ran_s, queued_s + waited_s
        clock.no_answer(now, Spent(running_s, queued_s))
    return clock


@pytest.mark.parametrize("ran_s", [0.0, LOOK_EVERY_S], ids=["sleeping", "spinning"])
def test_loop_that_sleeps_or_spins_is_blocked_after_a_second(ran_s: float) -> None:
    assert looking(*[(LOOK_EVERY_S, ran_s, 0.0)] * 8).blocked_s == pytest.approx(8 * LOOK_EVERY_S)
    assert looking(*[(LOOK_EVERY_S, ran_s, 0.0)] * 4).is_blocked
    assert not looking(*[(LOOK_EVERY_S, ran_s, 0.0)] * 3).is_blocked


def test_process_that_was_stopped_or_a_machine_that_slept_has_blocked_nothing() -> None:
    assert not looking((3600.0, 0.001, 0.01)).is_blocked
    assert not looking((LOOK_EVERY_S, 0.0, 0.0), (3600.0, 0.0, 0.0)).is_blocked


def test_loop_that_waits_for_a_cpu_is_not_blocked() -> None:
    assert not looking(*[(LOOK_EVERY_S, 0.005, LOOK_EVERY_S - 0.005)] * 40).is_blocked
    assert not looking((10.0, 0.1, 9.8)).is_blocked


def test_loop_that_spins_is_blocked_on_a_busy_machine_too() -> None:
    busy = looking(*[(LOOK_EVERY_S, LOOK_EVERY_S / 3, LOOK_EVERY_S * 2 / 3)] * 5)
    assert busy.is_blocked
    assert busy.blocked_s == pytest.approx(5 * LOOK_EVERY_S)


def test_code_that_keeps_the_interpreters_lock_counts_by_its_time_on_a_cpu() -> None:
    assert looking((5.0, 4.9, 0.1)).is_blocked
    assert looking((6.0, 2.0, 4.0)).blocked_s == pytest.approx(6.0)


def test_without_accounts_of_the_kernel_what_was_seen_counts() -> None:
    assert looking(*[(LOOK_EVERY_S, 0.0, 0.0)] * 4, (60.0, 0.0, 0.0)).blocked_s == pytest.approx(1 + 2 * LOOK_EVERY_S)


def test_answer_ends_the_block_and_what_came_before_is_forgotten() -> None:
    clock = BlockClock()
    clock.restart(10.0, Spent(0.0, 0.0))
    clock.no_answer(10.25, Spent(0.0, 0.0))
    clock.answer(10.35)
    assert clock.blocked_s == pytest.approx(0.35)
    clock.answer(5.0)
    assert clock.blocked_s == pytest.approx(0.35)
    clock.restart(20.0, Spent(0.0, 0.0))
    assert clock.blocked_s == 0.0


# ---- the interpreter's lock


def standing_still(since_s: float, process_s: float, loop: Spent) -> Standstill | None:
    """Return what a look finds: the time since the last one, and those on a CPU meanwhile, of two."""
    clock = StandstillClock(2)
    assert clock.look(1000.0, Ran(5.0, Spent(4.0, 1.0))) is None, "it is the first look"
    spent = Spent(4.0 + loop.running_s, 1.0 + loop.queued_s)
    return clock.look(1000.0 + LOOK_EVERY_S + since_s, Ran(5.0 + process_s, spent))


@pytest.mark.parametrize("loop", [Spent(5.0, 0.0), Spent(1.0, 4.0)], ids=["idle machine", "busy machine"])
def test_look_that_comes_late_though_the_loop_ran_was_kept_from_it(loop: Spent) -> None:
    found = standing_still(5.0, loop.running_s, loop)
    assert found is not None
    assert found.lasted_s == pytest.approx(5.0)
    assert found.is_by_loop


@pytest.mark.parametrize("since_s", [5.0, 20.0], ids=["idle machine", "busy machine"])
def test_look_that_comes_late_though_another_thread_ran_was_kept_from_it(since_s: float) -> None:
    found = standing_still(since_s, 4.0, Spent(0.1, 0.1))
    assert found is not None
    assert not found.is_by_loop


@pytest.mark.parametrize("process_s", [0.0, 0.25, 0.6])
def test_process_that_was_stopped_did_not_stand_still_by_itself(process_s: float) -> None:
    """However many threads it had, they were on the two CPUs for a short time only."""
    assert standing_still(60.0, process_s, Spent(process_s / 2, 0.0)) is None


def test_look_in_time_finds_nothing_whatever_the_threads_computed() -> None:
    assert standing_still(0.2, 8.0, Spent(4.0, 0.0)) is None


def test_time_before_a_restart_does_not_count() -> None:
    clock = StandstillClock(2)
    clock.look(1000.0, Ran(5.0, Spent(4.0, 0.0)))
    clock.restart(1005.0, Ran(10.0, Spent(9.0, 0.0)))
    assert clock.look(1005.0 + LOOK_EVERY_S, Ran(10.2, Spent(9.2, 0.0))) is None
