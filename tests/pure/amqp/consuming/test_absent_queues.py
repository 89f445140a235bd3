"""When a queue that was not there is asked about again."""

from __future__ import annotations

from mxworker.amqp.consuming.absent_queues import FIRST_S, MOST_S, AbsentQueues


def test_wait_doubles_up_to_its_most_and_ends_when_the_queue_is_expected() -> None:
    absent, now, waits = AbsentQueues(), 0.0, []
    for _ in range(8):
        absent.note("q", now)
        wait_s = next(step for step in range(1, 10_000) if not absent.is_absent("q", now + step))
        waits.append(wait_s)
        now += wait_s
    assert waits == [60, 120, 240, 480, 960, 1800, 1800, MOST_S]
    absent.note("q", now)
    absent.forget(["q", "other"])
    assert not absent.is_absent("q", now)
    absent.note("q", now, most_s=FIRST_S)
    absent.note("q", now, most_s=FIRST_S)
    assert absent.is_absent("q", now + FIRST_S - 1)
    assert not absent.is_absent("q", now + FIRST_S)
