"""The demo of `handlers_example` knows what must become of its orders, and tells what did not."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from handlers_example import shop, warehouse
from handlers_example.demo.accounts import ATTEMPTS, NOWHERE, DeadLetter, Ends, differences, expected
from handlers_example.demo.orders import BAD_EVERY, BULK_EVERY, Kind, samples
from handlers_example.demo.progress import Progress
from handlers_example.demo.summary import Summary
from handlers_example.demo.times import Execution, Times
from handlers_example.pricing import InvalidOrder, Order, price
from mxworker import Delivery
from mxworker.api.decoder import decoder_for
from mxworker.api.handlers import compile_handlers
from mxworker.errors import DecodeError
from tests.harness.nowhere import Nowhere


def order_in(body: bytes) -> Order:
    order = decoder_for(Order)(Delivery(body, b"\0\0", b"", False, 1, Nowhere()), body)
    assert isinstance(order, Order)
    return order


# The demo's orders


def reason_against(body: bytes) -> str | None:
    try:
        price(order_in(body))
    except (DecodeError, InvalidOrder) as error:
        return str(error)
    return None


def test_demo_orders_are_what_they_are_said_to_be() -> None:
    made = list(samples(1_000))
    assert [reason_against(sample.body) is not None for sample in made] == [one.kind is Kind.BAD for one in made]
    assert [one.kind for one in made].count(Kind.BAD) == 1_000 // BAD_EVERY
    for one in made:
        if one.kind is not Kind.BAD:
            order = order_in(one.body)
            assert (one.id, one.kind is Kind.BULK) == (order.id, warehouse.needs_a_truck(order))
    assert [one.kind for one in made].count(Kind.BULK) == 1_000 // BULK_EVERY


def test_demo_orders_are_bad_in_several_ways() -> None:
    bad = [sample.body for sample in samples(BAD_EVERY * 6) if sample.kind is Kind.BAD]
    assert len(bad) == len({reason_against(body) for body in bad}) == 6


def test_demo_orders_have_ids_of_their_own() -> None:
    assert len({sample.id for sample in samples(500)}) == 500


# The demo's accounts

RIGHT = expected(samples(1_000))


def dead_letters(ends: Ends) -> list[DeadLetter]:
    died = {"orders": ends.refused, "payments": ends.unpaid, "stock": ends.by_truck}
    return [
        DeadLetter(queue, one, b"{}", {"mx-attempts": ATTEMPTS[queue]}) for queue, ids in died.items() for one in ids
    ]


def test_every_order_has_one_right_end_in_the_accounts() -> None:
    assert len(RIGHT.invoiced | RIGHT.unpaid | RIGHT.refused) == 1_000
    assert len(RIGHT.invoiced) + len(RIGHT.unpaid) + len(RIGHT.refused) == 1_000
    assert len(RIGHT.booked) + len(RIGHT.by_truck) + len(RIGHT.refused) == 1_000
    assert all(RIGHT.count(1_000))
    assert all((RIGHT.refused, RIGHT.unpaid, RIGHT.by_truck))


def test_accounts_that_balance_have_no_differences() -> None:
    assert differences(RIGHT, RIGHT, dead_letters(RIGHT)) == []
    assert RIGHT.covers(RIGHT)
    assert RIGHT.covers(NOWHERE)


@pytest.mark.parametrize("place", ["invoiced", "labelled", "booked", "refused", "unpaid", "by_truck"])
def test_one_lost_order_is_told_wherever_it_was_lost(place: str) -> None:
    ids = getattr(RIGHT, place)
    lost = min(ids)
    found = replace(RIGHT, **{place: ids - {lost}})
    assert differences(RIGHT, found, dead_letters(found)) == [f"{place}: 1 missing, {lost}"]
    assert not found.covers(RIGHT)


def test_one_order_too_many_is_told() -> None:
    found = replace(RIGHT, labelled=RIGHT.labelled | {"stray"})
    assert differences(RIGHT, found, dead_letters(found)) == ["labelled: 1 too many, stray"]


def test_the_attempts_in_the_accounts_are_those_of_the_shop() -> None:
    most = {handler.queue.name: handler.max_attempts for handler in compile_handlers(shop.handlers)}
    assert ATTEMPTS["payments"] == most["payments"]


@pytest.mark.parametrize("headers", [{}, {"mx-attempts": 3}, {"mx-attempts": 5}])
def test_a_dead_letter_with_wrong_facts_is_told(headers: dict[str, Any]) -> None:
    letter = DeadLetter("payments", "order-1", b"", headers)
    (line,) = differences(RIGHT, RIGHT, [letter])
    assert "order-1 of payments" in line


def test_times_come_from_what_the_stopwatch_noted() -> None:
    lines = [
        Execution("stock", 1, 90, 10.0, 10.010).line(),
        Execution("stock", 2, 0, 10.5, 10.530).line(),
        Execution("stock", 1, 10, 11.98, 12.0).line(),
    ]
    times = Times.of(map(Execution.parse, b"".join(lines).decode().splitlines()))
    assert (times.handled, times.retried, round(times.median_ms), round(times.rate)) == (100, 1, 20, 50)
    assert Times.of([]).rate == 0


def test_the_summary_shows_the_numbers_and_the_dead_letter_that_was_tried_most() -> None:
    letters = [
        DeadLetter("orders", "order-1", b"{}", {"mx-attempts": 1}),
        DeadLetter("payments", "order-2", b"x" * 500, {"mx-attempts": 4, "mx-reason": "failed"}),
    ]
    text = str(Summary(RIGHT, 2.0, [Execution("orders", 1, 1, 1.0, 1.5)] * 2, letters))
    assert "order-2" in text
    assert "order-1 " not in text
    assert "1,000  orders in 2.0 s, 500 per second" in text
    assert max(map(len, text.splitlines())) <= 80


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    goal = RIGHT.count(10_000)._replace(invoiced=9_745, labelled=9_745, booked=9_750)
    Progress(goal).show(goal)
    assert "##########" in terminal.getvalue()
    assert len(terminal.getvalue().removeprefix("\r\x1b[K")) < 80
