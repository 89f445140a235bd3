"""The pool's decision for those who wait for a channel, case by case."""

from __future__ import annotations

from mxworker.amqp.connecting.borrowing import Connect, Lend, Open, Supply, Wait, next_step

DOWN = Supply(is_up=False, has_idle=False, opening=0, room=0)
FULL = Supply(is_up=True, has_idle=False, opening=0, room=0)
ROOMY = Supply(is_up=True, has_idle=False, opening=0, room=3)
OPENING = Supply(is_up=True, has_idle=False, opening=2, room=3)
IDLE = Supply(is_up=True, has_idle=True, opening=0, room=3)


def test_idle_channel_is_lent_before_one_is_opened() -> None:
    assert next_step(2, [ROOMY, IDLE], 5, may_connect=True) == Lend(1)


def test_nothing_is_done_for_nobody() -> None:
    assert next_step(0, [IDLE, ROOMY, DOWN], 5, may_connect=True) == Wait()


def test_channel_that_is_being_opened_is_for_one_who_waits() -> None:
    assert next_step(2, [OPENING], 5, may_connect=True) == Wait()
    assert next_step(3, [OPENING], 5, may_connect=True) == Open(0, 1)


def test_as_many_channels_are_opened_as_are_missing_and_there_is_room_for() -> None:
    assert next_step(2, [FULL, ROOMY], 5, may_connect=True) == Open(1, 2)
    assert next_step(9, [FULL, ROOMY], 5, may_connect=True) == Open(1, 3)


def test_connection_that_is_up_is_used_before_one_that_is_down_is_waited_for() -> None:
    assert next_step(1, [DOWN, ROOMY], 5, may_connect=True) == Open(1, 1)


def test_connection_that_is_down_is_waited_for_as_far_as_it_will_do() -> None:
    assert next_step(5, [FULL, DOWN], 5, may_connect=True) == Wait()
    assert next_step(6, [FULL, DOWN], 5, may_connect=True) == Connect()


def test_there_are_no_more_connections_than_may_be() -> None:
    assert next_step(1, [], 5, may_connect=True) == Connect()
    assert next_step(1, [FULL], 5, may_connect=False) == Wait()
