"""Which of many failed attempts to connect are told."""

from __future__ import annotations

from mxworker.amqp.connecting.outage import Outage


def test_attempts_that_fail_alike_are_told_every_10_s_and_later_every_minute() -> None:
    outage = Outage()
    told = [second for second in range(300) if outage.is_news("a", "refused", float(second))]
    assert told == [0, 10, 20, 30, 40, 50, 110, 170, 230, 290]


def test_another_reason_and_another_broker_are_told_at_once() -> None:
    outage = Outage()
    said = [("a", "refused"), ("a", "refused"), ("b", "refused"), ("a", "no answer"), ("b", "refused")]
    assert [outage.is_news(broker, why, 0.0) for broker, why in said] == [True, False, True, True, False]


def test_reasons_that_take_turns_are_told_once_each() -> None:
    outage = Outage()
    reasons = ["reset", "closed"] * 30
    told = [second for second, why in enumerate(reasons) if outage.is_news("a", why, float(second))]
    assert told == [0, 1, 11, 21, 31, 41, 51]


def test_reasons_of_which_no_two_are_alike_are_told_up_to_a_bound() -> None:
    outage = Outage()
    told = [number for number in range(1000) if outage.is_news("a", str(number), 0.0)]
    assert told == list(range(10))


def test_end_of_an_outage_tells_since_when_it_was_and_the_next_one_is_told_anew() -> None:
    outage = Outage()
    assert outage.end() is None
    outage.is_news("a", "refused", 5.0)
    outage.is_news("a", "refused", 7.0)
    assert outage.end() == 5.0
    assert outage.end() is None
    assert outage.is_news("a", "refused", 8.0)
