"""What a dead letter says is read tolerantly, filtered exactly, counted with a bound, and shown harmlessly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp import commands

from mxworker import Delivery
from mxworker.api.copying import copy_of
from mxworker.cli.output import as_json
from mxworker.errors import ConfigError, DecodeError
from mxworker.letters.file_format import from_line, to_line
from mxworker.letters.filters import Filters, parse_header, parse_moment
from mxworker.letters.letter import Letter, Original, key_of, letter_of
from mxworker.letters.lock import lock_name
from mxworker.letters.plan import Plan, too_slow
from mxworker.letters.summary import MOST_TEXTS, OTHERS, Summary
from mxworker.letters.texts import letter_json, line, page, page_json, summary_json, summary_text
from mxworker.wire.field_table import encode, entries
from mxworker.wire.origins import headers_of, with_headers
from mxworker.wire.own_headers import REPLAYS_HEADER
from mxworker.wire.properties import FLAG_HEADERS, join, split
from tests.harness.copied import come_back, received
from tests.harness.hostile_text import FORGED, HOSTILE, assert_harmless

DIED_AT = datetime(2026, 11, 29, 8, 30, tzinfo=UTC)
FACTS: Mapping[str, Any] = {
    "mx-queue": "orders",
    "mx-handler": "app.order",
    "mx-attempts": 4,
    "mx-reason": "failed",
    "mx-error-type": "ValueError",
    "mx-error": "no order 4711",
    "mx-failed-at": DIED_AT,
    "tenant": "acme",
    "tries": 3,
}
DEATH = {
    "reason": "rejected",
    "queue": "orders",
    "time": DIED_AT,
    "count": 2,
    "exchange": "",
    "routing-keys": ["orders"],
}


def dead(
    headers: Mapping[str, Any] = FACTS, body: bytes = b"{}", message_id: str | None = "order-4711", **properties: Any
) -> Delivery:
    raw = commands.Basic.Properties(message_id=message_id, **properties).marshal()
    table = encode(headers)
    values = {**split(raw), FLAG_HEADERS: len(table).to_bytes(4) + table}
    return received(join(values), routing_key=b"orders.dlq", body=body)


def letter(headers: Mapping[str, Any] = FACTS, **more: Any) -> Letter:
    return facts_of(dead(headers, **more))


def facts_of(delivery: Delivery) -> Letter:
    return letter_of(delivery)[0]


def test_facts_of_mxworker_are_read() -> None:
    found = letter()
    assert (found.handler, found.reason, found.error_type, found.error) == (
        "app.order",
        "failed",
        "ValueError",
        "no order 4711",
    )
    assert (found.failed_at, found.attempts, found.replays) == (DIED_AT.timestamp(), 4, 0)


def test_letter_of_the_broker_has_reason_queue_and_time_of_its_last_death() -> None:
    found = letter({"x-death": [DEATH, {"reason": "expired", "queue": "orders.retry"}]})
    assert (found.reason, found.queue, found.failed_at) == ("rejected", "orders", DIED_AT.timestamp())
    assert (found.handler, found.error_type, found.attempts) == (None, None, None)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": "no list"},
        {"x-death": [1, 2]},
        {"mx-reason": 3, "mx-attempts": "many", "mx-failed-at": "today", "mx-replays": True, "x-delivery-count": -1},
        {"mx-failed-at": 10**18, "mx-replays": None},
    ],
)
def test_facts_of_other_types_are_unknown(headers: Mapping[str, Any]) -> None:
    found = letter(headers)
    assert (found.reason, found.attempts, found.failed_at, found.replays, found.delivery_count) == (
        None,
        None,
        None,
        0,
        0,
    )


def test_letter_whose_headers_cannot_be_read_is_a_letter() -> None:
    delivery = received(b"\x20\x00\x00\x00\x00\x05broke")
    assert facts_of(delivery).headers == {}
    assert facts_of(delivery).key == facts_of(delivery).key


def test_key_stays_the_same_however_often_the_letter_is_delivered_or_copied() -> None:
    original = dead()
    key = facts_of(original).key
    counted = join(
        with_headers(
            split(original.raw_properties),
            [*headers_of(split(original.raw_properties)), *entries(encode({"x-delivery-count": 7}))],
        )
    )
    again = Delivery(original.body, counted, original.raw_route, True, 9, None)  # type: ignore[arg-type]
    assert facts_of(again).delivery_count == 7
    assert facts_of(again).key == key
    copied = come_back(copy_of(*Original.of(original), {}))
    assert facts_of(copied).key == key
    assert facts_of(come_back(copy_of(*Original.of(copied), {}))).key == key


@pytest.mark.parametrize("other", [dead(body=b"[]"), dead(message_id="order-4712"), dead({**FACTS, "tries": 4})])
def test_other_letters_have_other_keys(other: Delivery) -> None:
    assert key_of(Original.of(other)) != key_of(Original.of(dead()))


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (Filters(), True),
        (Filters(handlers=("other", "app.order")), True),
        (Filters(handlers=("app",)), False),
        (Filters(reasons=("failed",)), True),
        (Filters(reasons=("timeout",)), False),
        (Filters(error="ValueError"), True),
        (Filters(error="Value"), False),
        (Filters(error="NO ORDER"), True),
        (Filters(since=DIED_AT.timestamp()), True),
        (Filters(since=DIED_AT.timestamp() + 1), False),
        (Filters(until=DIED_AT.timestamp()), False),
        (Filters(until=DIED_AT.timestamp() + 1), True),
        (Filters(ids=("order-4711",)), True),
        (Filters(ids=("order-471",)), False),
        (Filters(ids=(letter().key[:6],)), True),
        (Filters(ids=(letter().key[:5],)), False),
        (Filters(headers=(("tenant", "acme"), ("tries", "3"))), True),
        (Filters(headers=(("tenant", "acme"), ("tries", "4"))), False),
        (Filters(headers=(("absent", "None"),)), False),
        (Filters(handlers=("app.order",), reasons=("timeout",)), False),
    ],
)
def test_filters_take_exactly_theirs(filters: Filters, matches: bool) -> None:
    assert filters.match(letter()) is matches


@pytest.mark.parametrize(
    "filters", [Filters(since=0.0), Filters(until=1e12), Filters(error=""), Filters(reasons=("",))]
)
def test_letter_that_says_nothing_fits_no_filter(filters: Filters) -> None:
    assert not filters.match(letter({}))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", 1000 - 7200),
        ("90s", 910),
        ("2026-11-29T08:30", DIED_AT.timestamp()),
        ("2026-11-29T09:30+01:00", DIED_AT.timestamp()),
        ("2026-11-29", datetime(2026, 11, 29, tzinfo=UTC).timestamp()),
    ],
)
def test_moments_are_read(text: str, moment: float) -> None:
    assert parse_moment(text, 1000.0) == moment


@pytest.mark.parametrize("text", ["yesterday", "2 hours", ""])
def test_what_is_no_moment_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="2h"):
        parse_moment(text, 1000.0)


@pytest.mark.parametrize("text", ["tenant", "=acme", ""])
def test_what_is_no_header_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="name=value"):
        parse_header(text)


def test_letters_are_counted_by_reason_handler_error_type_and_hour() -> None:
    summary = Summary()
    for headers in (FACTS, FACTS, {**FACTS, "mx-error-type": "KeyError"}, {"x-death": [DEATH]}):
        summary.add(letter(headers))
    counted = summary_json("orders.dlq", summary, 5)
    assert (counted["letters"], counted["there"], counted["body_bytes"]) == (4, 5, 8)
    assert counted["by_reason"] == {"failed": 3, "rejected": 1}
    assert counted["by_handler"] == {"app.order": 3, "(unknown)": 1}
    assert counted["by_error_type"] == {"ValueError": 2, "(unknown)": 1, "KeyError": 1}
    assert counted["by_hour"] == {"2026-11-29 08:00": 4}
    assert counted["oldest"] == counted["newest"] == "2026-11-29T08:30:00+00:00"
    assert summary_text("orders.dlq", summary, 5).splitlines()[0] == "orders.dlq: 4 of 5 letters, 8 bytes"


def test_counts_are_bounded_whatever_letters_say() -> None:
    summary = Summary()
    for number in range(MOST_TEXTS + 30):
        summary.add(letter({**FACTS, "mx-error-type": f"Error{number}"}))
    counts = summary.by["error type"]
    assert len(counts) == MOST_TEXTS + 1
    assert counts[OTHERS] == 30


def test_hostile_letter_is_shown_harmlessly() -> None:
    hostile = dict.fromkeys(("mx-handler", "mx-reason", "mx-error-type", "mx-error", HOSTILE[:20]), HOSTILE)
    delivery = dead(hostile, f"{HOSTILE}\n{FORGED[0]}".encode(), HOSTILE[:60], content_type=HOSTILE[:60])
    found, original = letter_of(delivery)
    summary = Summary()
    summary.add(found)
    texts = (line(found), page(found, original), summary_text("orders.dlq", summary, 1))
    for text in texts:
        assert_harmless(text)
    assert "\n" not in line(found)
    values = (letter_json(found), page_json(found, original), summary_json("orders.dlq", summary, 1))
    for value in values:
        assert_harmless(as_json(value))
        assert json.loads(as_json(value)) == value


@pytest.mark.parametrize(("body", "key"), [('{"ä": 1}'.encode(), "body"), (b"\xff\x00", "body_base64")])
def test_body_is_shown_as_text_or_as_base64(body: bytes, key: str) -> None:
    delivery = dead(body=body)
    assert key in page_json(*letter_of(delivery))
    assert page(*letter_of(delivery))


def test_plan_takes_each_chosen_letter_once_and_no_other() -> None:
    plan = Plan(Filters(handlers=("app.order",)), max_replays=3)
    twice, other, tired = letter(), letter({**FACTS, "mx-handler": "app.mail"}), letter({**FACTS, REPLAYS_HEADER: 3})
    for each in (twice, twice, other, tired):
        plan.see(each)
    assert (plan.letters, plan.replayed_too_often, plan.left) == (2, 1, 2)
    assert [plan.takes(each.key) for each in (other, twice, tired, twice, twice)] == [False, True, False, True, False]
    assert plan.left == 0


def test_plan_with_a_limit_chooses_the_first() -> None:
    plan = Plan(Filters(), limit=2)
    letters = [letter(body=bytes([number])) for number in range(4)]
    for each in letters:
        plan.see(each)
    assert [plan.takes(each.key) for each in letters] == [True, True, False, False]


@pytest.mark.parametrize(
    ("letters", "rate", "is_refused"), [(10**6, None, False), (1500, 1.0, False), (1501, 1.0, True)]
)
def test_rate_at_which_the_broker_would_lose_patience_is_refused(
    letters: int, rate: float | None, is_refused: bool
) -> None:
    said = too_slow(letters, rate)
    assert (said is not None) is is_refused
    assert said is None or "--limit 1500," in said


@pytest.mark.parametrize("name", ["orders.dlq", "q" * 255])
def test_lock_has_a_name_that_the_broker_takes(name: str) -> None:
    assert len(lock_name(name)) <= 255
    assert lock_name(name) != lock_name(name + ".")


@pytest.mark.parametrize("body", [b"{}", "ä\n\x1b".encode(), b"\xff\x00", b""])
def test_line_of_a_file_makes_the_same_letter_again(body: bytes) -> None:
    delivery = dead({**FACTS, "mx-error": HOSTILE}, body, HOSTILE[:60])
    original = Original.of(delivery)
    text = to_line(facts_of(delivery), original)
    assert "\n" not in text
    assert text.isascii()
    assert from_line(text.encode()) == original


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "no letter"),
        ('{"format": 2}', "no letter"),
        ('{"format": 1, "body": ""}', "properties_base64"),
        ('{"format": 1, "body": "", "properties_base64": "AA=", "route_base64": ""}', "properties_base64"),
        ('{"format": 1, "body": "", "properties_base64": "gAA=", "route_base64": ""}', "cut short"),
    ],
)
def test_line_that_is_no_letter_is_refused(text: str, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        from_line(text.encode())
