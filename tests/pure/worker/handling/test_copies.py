"""A copy carries all of its original, nothing that the broker would act on, and a count that nobody can abuse."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxworker import Delivery, Origin
from mxworker.api.attempts import attempt_of
from mxworker.api.message import Content
from mxworker.errors import DecodeError
from mxworker.wire import field_table
from mxworker.wire.field_table import decode, encode, entry
from mxworker.wire.origins import headers_of
from mxworker.wire.own_headers import ATTEMPT_HEADER
from mxworker.wire.properties import Properties, split
from mxworker.worker.handling.copies import Facts, copy_with_facts, retry_copy
from tests.harness.copied import come_back, properties_on_wire, received
from tests.harness.timing import timed
from tests.pure.wire.test_field_table import raw_names, raw_values
from tests.pure.wire.test_properties import TEXTS
from tests.rabbit.raw import HOSTILE, NOT_UTF_8, field, nested_table, raw_properties, table, wide_table

T = TypeVar("T")

MOVED = (
    *(b"x-death", b"x-first-death-queue", b"x-first-death-reason", b"x-first-death-exchange", b"x-delivery-count"),
    *(b"x-acquired-count", b"x-deduplication-header"),
    *(b"x-last-death-queue", b"x-last-death-reason", b"x-last-death-exchange", b"CC", b"BCC"),
)
FAMILIES = (b"x-first-death-", b"x-last-death-")
OURS = (b"mx-attempt", b"mx-attempts", b"mx-error", b"mx-origin-exchange", b"mx-origin-CC", b"mx-origin-expiration")
FACTS = Facts("orders", "shop.order", 4, "failed", "ValueError", "no such order", 1_722_470_400)

forged_entries = st.lists(st.tuples(st.sampled_from(OURS), raw_values), max_size=3)
foreign_names = raw_names.filter(lambda name: not name.startswith(b"mx-")) | st.sampled_from(MOVED)
foreign_entries = st.lists(st.tuples(foreign_names, raw_values), max_size=8)
other_properties = st.fixed_dictionaries(
    {},
    optional={name: st.binary(max_size=255) for name in (*TEXTS, "cluster_id")}
    | {"delivery_mode": st.integers(0, 255), "priority": st.integers(0, 255), "timestamp": st.integers(0, 2**64 - 1)},
)
routes = st.tuples(st.binary(max_size=255), st.binary(max_size=255))


def raw_table(entries: list[tuple[bytes, bytes]]) -> bytes:
    return table(*(entry(name, value) for name, value in entries))


def delivery_of(
    properties: dict[str, Any], entries: list[tuple[bytes, bytes]], route: tuple[bytes, bytes] = (b"", b"work")
) -> Delivery:
    headers = {"headers": raw_table(entries)} if entries else {}
    return received(raw_properties(**properties, **headers), exchange=route[0], routing_key=route[1])


def with_header(value: bytes, name: bytes = b"mx-attempt", *, redelivered: bool = False) -> Delivery:
    return received(raw_properties(headers=table(entry(name, value))), redelivered=redelivered)


def headers_in(content: Content) -> list[tuple[bytes, bytes]]:
    return headers_of(split(properties_on_wire(content)))


# ---- what a copy keeps


@given(properties=other_properties, entries=foreign_entries, route=routes, data=st.data())
@settings(max_examples=500, deadline=None)
def test_copy_of_whatever_was_delivered_shows_it_again_byte_for_byte(
    properties: dict[str, Any], entries: list[tuple[bytes, bytes]], route: tuple[bytes, bytes], data: st.DataObject
) -> None:
    properties.setdefault("message_id", b"id")
    original = delivery_of(properties, entries, route)
    copy = original
    for attempt in range(2, data.draw(st.integers(3, 5))):
        copy = come_back(retry_copy(copy, attempt), (b"x-death", b"V"), (b"x-first-death-queue", b"V"))
        assert attempt_of(copy, 10) == attempt
    assert copy.body == original.body
    assert copy.origin is not None
    assert (copy.origin.exchange, copy.origin.routing_key) == (original.exchange, original.routing_key)
    expected = dict(properties, message_id=properties["message_id"] or b"made")
    moved = {flag: expected.pop(flag, None) for flag in ("expiration", "user_id")}
    assert same_text(copy.origin.expiration, moved["expiration"])
    assert same_text(copy.origin.claimed_user_id, moved["user_id"])
    assert raw_table(all_headers(copy)) == raw_table(sorted(entries, key=lambda each: is_moved(each[0])))
    for name in (*TEXTS, "delivery_mode", "priority", "timestamp"):
        assert same_text(getattr(copy.properties, name), expected.get(name)), name


def all_headers(copy: Delivery) -> list[tuple[bytes, bytes]]:
    """Return the headers of the original that a copy shows, and then those that it says had to be moved."""
    assert copy.origin is not None
    shown = headers_of(split(copy.raw_properties))
    kept = [each for each in shown if not each[0].startswith(b"mx-") and not is_moved(each[0])]
    return kept + field_table.entries(copy.origin.raw_headers)


def is_moved(name: bytes) -> bool:
    return name in MOVED or (name.startswith(FAMILIES) and len(name) <= 245)


def same_text(shown: str | int | None, sent: bytes | int | None) -> bool:
    return (shown.encode("utf-8", "surrogateescape") if isinstance(shown, str) else shown) == sent


@given(properties=other_properties, entries=foreign_entries, route=routes)
@settings(max_examples=300, deadline=None)
def test_copy_on_the_wire_has_every_other_property_and_header_raw(
    properties: dict[str, Any], entries: list[tuple[bytes, bytes]], route: tuple[bytes, bytes]
) -> None:
    original = delivery_of(properties, entries, route)
    content = retry_copy(original, 2)
    assert content.message_id == properties.get("message_id")
    before, after = split(original.raw_properties), split(properties_on_wire(content))
    stripped = (Properties(properties_on_wire(content)).expiration, Properties(properties_on_wire(content)).user_id)
    assert stripped == (None, None)
    changed = {flag for flag in before.keys() | after.keys() if before.get(flag) != after.get(flag)}
    assert changed <= {1 << 13, 1 << 8, 1 << 4, 1 << 7}  # headers, expiration, user_id, and the id when it was missing
    kept = [(name, value) for name, value in entries if name not in MOVED and not name.startswith(FAMILIES)]
    assert [(name, value) for name, value in headers_of(after) if not name.startswith(b"mx-")] == kept


@given(entries=st.lists(st.tuples(st.sampled_from(MOVED), raw_values), min_size=1, max_size=10))
@settings(deadline=None)
def test_nothing_that_the_broker_would_act_on_rides_along(entries: list[tuple[bytes, bytes]]) -> None:
    for content in (retry_copy(delivery_of({}, entries), 2), copy_with_facts(delivery_of({}, entries), FACTS)):
        names = [name for name, _ in headers_in(content)]
        assert not set(names) & set(MOVED)
        assert [(b"mx-origin-" + name, value) for name, value in entries] == headers_in(content)[: len(entries)]


def test_header_of_a_family_moves_as_long_as_its_new_name_fits() -> None:
    fits, too_long = b"x-first-death-" + b"n" * 231, b"x-first-death-" + b"n" * 241
    original = delivery_of({}, [(fits, b"V"), (too_long, b"V")])
    content = retry_copy(original, 2)
    assert [name for name, _ in headers_in(content)][:2] == [b"mx-origin-" + fits, too_long]
    copy = come_back(content)
    assert copy.origin is not None
    assert (copy.headers, copy.origin.headers) == ({too_long.decode(): None}, {fits.decode(): None})


def test_copy_of_a_copy_is_no_larger_than_the_copy() -> None:
    grown = [(b"x-death", b"S\x00\x00\x04\x00" + b"x" * 1024), (b"x-delivery-count", b"l" + b"\x00" * 8)]
    original = delivery_of({"message_id": b"id", "expiration": b"100", "user_id": b"guest"}, [(b"x-death", b"V")])
    sizes = set()
    for attempt in range(2, 50):
        content = retry_copy(original, attempt)
        sizes.add(len(properties_on_wire(content)))
        original = come_back(content, *grown)
    assert len(sizes) == 1
    assert original.origin is not None
    assert original.origin.headers == {"x-death": None}


def test_origin_is_readable_by_people_and_other_programs() -> None:
    original = delivery_of(
        {"expiration": b"5000", "user_id": b"shop"}, [(b"CC", encode({"": ["a"]})[1:])], (b"orders", b"new.eu")
    )
    headers = decode(raw_table(headers_in(retry_copy(original, 2)))[4:])
    assert headers == {
        "mx-origin-CC": ["a"],
        "mx-origin-expiration": "5000",
        "mx-origin-user-id": "shop",
        "mx-origin-exchange": "orders",
        "mx-origin-routing-key": "new.eu",
        ATTEMPT_HEADER: 2,
    }


def test_copy_shows_what_was_delivered_and_beside_it_what_it_says_of_the_original() -> None:
    properties = {"message_id": b"id", "user_id": NOT_UTF_8, "expiration": b"700"}
    original = delivery_of(properties, [(b"BCC", b"V"), (b"n", b"t\x01")], (b"orders", NOT_UTF_8))
    copy = come_back(retry_copy(original, 2), (b"x-death", b"V"))
    assert (copy.exchange, copy.routing_key, copy.message_id) == ("", "work", "id")
    assert (copy.properties.user_id, copy.properties.expiration) == (None, None)
    assert copy.headers == {"n": True, "x-death": None}
    assert copy.origin == Origin(
        "orders", original.routing_key, "700", original.properties.user_id, raw_table([(b"BCC", b"V")])[4:]
    )
    assert copy.origin.headers == {"BCC": None}
    assert b"mx-origin-BCC" in copy.raw_properties


def test_what_is_no_copy_has_no_origin() -> None:
    assert delivery_of({}, [(b"n", b"V")], (b"orders", b"new")).origin is None
    assert delivery_of({}, [(b"mx-origin-exchange", text(b"payments"))]).origin is None
    assert received(raw_properties(correlation_id=b"mx-origin-exchange")).origin is None


def test_bookkeeping_is_never_among_the_headers_so_that_nobody_passes_it_on() -> None:
    copy = come_back(retry_copy(delivery_of({"user_id": b"shop"}, [(b"CC", b"V")], (b"orders", b"new")), 2))
    assert copy.headers == {}
    assert delivery_of({}, [(b"mx-attempt", b"b\x03"), (b"mx-origin-x-death", b"V"), (b"n", b"V")]).headers == {
        "n": None
    }


@given(entries=foreign_entries, forged=forged_entries, route=routes)
@settings(max_examples=300, deadline=None)
def test_forged_bookkeeping_breaks_no_copy_and_is_never_doubled(
    entries: list[tuple[bytes, bytes]], forged: list[tuple[bytes, bytes]], route: tuple[bytes, bytes]
) -> None:
    original = delivery_of({}, forged + entries, route)
    copy = come_back(retry_copy(original, 3))
    assert attempt_of(copy, 10) == 3
    assert copy.origin == original.origin or original.origin is None
    dead = come_back(copy_with_facts(copy, FACTS))
    assert attempt_of(dead, 10) == 1
    names = [name for name, _ in headers_of(split(dead.raw_properties))]
    for name in (b"mx-attempts", b"mx-error", b"mx-queue", b"mx-origin-exchange", b"mx-origin-routing-key"):
        assert names.count(name) == 1 or name in (own for own, _ in entries), name


FORGED = [
    (b"mx-origin-%s" % name, text)
    for name, text in {
        b"exchange": b"S\x00\x00\x00\x08payments",
        b"routing-key": b"S\x00\x00\x00\x08approved",
        b"user-id": b"S\x00\x00\x00\x05admin",
        b"expiration": b"S\x00\x00\x00\x019",
        b"x-death": b"V",
        b"CC": b"V",
    }.items()
]


def test_forged_origin_is_shown_as_a_claim_and_changes_nothing_that_the_broker_delivered() -> None:
    forged = delivery_of({"user_id": b"mallory"}, FORGED)
    for delivery, user_id in ((forged, "mallory"), (come_back(retry_copy(delivery_of({}, FORGED), 2)), None)):
        assert (delivery.exchange, delivery.routing_key) == ("", "work")
        assert (delivery.properties.user_id, delivery.properties.expiration) == (user_id, None)
        assert delivery.headers == {}
        assert delivery.origin is not None
        assert (delivery.origin.exchange, delivery.origin.claimed_user_id) == ("payments", "admin")


def test_user_id_that_the_broker_validated_takes_the_place_of_a_claimed_one_in_the_next_copy() -> None:
    for make in (_retry, _dead_letter):
        copy = come_back(make(delivery_of({"user_id": b"mallory"}, FORGED)))
        assert copy.origin is not None
        assert (copy.origin.claimed_user_id, copy.properties.user_id) == ("mallory", None)
        assert b"admin" not in copy.raw_properties


def test_origin_is_no_copys_when_it_came_through_another_exchange_and_is_not_copied() -> None:
    by_topic = delivery_of({"user_id": b"mallory"}, FORGED, (b"public", b"anything"))
    assert (by_topic.exchange, by_topic.routing_key, by_topic.origin) == ("public", "anything", None)
    copy = come_back(retry_copy(by_topic, 2))
    assert copy.origin == Origin("public", "anything", None, "mallory", b"")
    assert b"payments" not in copy.raw_properties


def text(content: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(content)) + content


@pytest.mark.parametrize(
    "broken",
    [
        b"\x00",
        raw_properties(message_id=b"id")[:-1],
        raw_properties(headers=table(field(b"a", b"?"))),
        raw_properties(headers=table(field(b"mx-origin-exchange", b"S"))),
    ],
    ids=["no flags", "cut", "unknown type", "cut header"],
)
def test_what_cannot_be_split_cannot_be_copied_and_is_shown_as_it_is(broken: bytes) -> None:
    original = received(broken)
    with pytest.raises(DecodeError):
        retry_copy(original, 2)
    with pytest.raises(DecodeError):
        copy_with_facts(original, FACTS)
    assert original.routing_key == "work"
    assert attempt_of(original, 5) == 1


@pytest.mark.parametrize("kind", sorted(HOSTILE.keys() - {"20,000 headers"}))
def test_hostile_properties_are_copied_and_shown_in_no_time(kind: str) -> None:
    content, copying_s = timed(lambda: retry_copy(received(HOSTILE[kind]), 3))
    copy = come_back(content)
    attempt, counting_s = timed(lambda: attempt_of(copy, 9))
    shown, showing_s = timed(lambda: copy.properties.headers_raw)
    origin, reading_s = timed(lambda: copy.origin)
    assert attempt == 3
    assert origin is not None
    assert entries_of(shown) + entries_of(origin.raw_headers) == entries_of(Properties(HOSTILE[kind]).headers_raw)
    assert max(copying_s, counting_s, showing_s, reading_s) < 0.5


def entries_of(table: bytes | None) -> list[tuple[bytes, bytes]]:
    return field_table.entries(table or b"")


@pytest.mark.parametrize("place", ["first", "middle", "last", "inside"])
def test_headers_beyond_number_are_not_copied_and_cost_no_time(place: str) -> None:
    """At every start, and again when it is settled: the limits are many times what it takes."""
    attempt, others = entry(b"mx-attempt", b"b\x03"), 21_000 * field(b"", b"V")
    inside = entry(b"other", b"F" + table(attempt))
    headers = {
        "first": attempt + 2 * others,
        "middle": others + attempt + others,
        "last": 2 * others + attempt,
        "inside": 2 * others + inside,
    }[place]
    hostile = received(raw_properties(headers=table(headers)))
    number, counting_s = timed(lambda: attempt_of(hostile, 9))
    assert number == (3 if place == "first" else 1)
    refusals, refusing_s = timed(lambda: [_refusal(hostile, make) for make in (_retry, _dead_letter)])
    assert refusals == ["the headers have more than 4160 entries"] * 2
    assert max(counting_s, refusing_s / 2) < 0.01


def _refusal(original: Delivery, make: Callable[[Delivery], Content]) -> str:
    with pytest.raises(DecodeError) as caught:
        make(original)
    return str(caught.value)


def _retry(original: Delivery) -> Content:
    return retry_copy(original, 2)


def _dead_letter(original: Delivery) -> Content:
    return copy_with_facts(original, FACTS)


# ---- attempts


@pytest.mark.parametrize(
    ("value", "attempt"),
    [
        (b"I" + struct.pack(">i", 1), 1),
        (b"I" + struct.pack(">i", 2), 2),
        (b"b\x03", 3),
        (b"L" + struct.pack(">q", 4), 4),
        (b"I" + struct.pack(">i", 5), 4),
        (b"l" + struct.pack(">q", 10**9), 4),
        (b"I" + struct.pack(">i", 0), 1),
        (b"I" + struct.pack(">i", -1), 1),
        (b"l" + struct.pack(">q", -(2**63)), 1),
        (text(b"3"), 1),
        (b"t\x01", 1),
        (b"V", 1),
        (b"d" + struct.pack(">d", 3.0), 1),
        (b"D\x00" + struct.pack(">I", 3), 1),
        (b"T" + struct.pack(">Q", 3), 1),
        (b"T" + b"\xff" * 8, 1),
        (b"A" + table(b"b\x03"), 1),
        (b"F" + table(entry(b"mx-attempt", b"b\x03")), 1),
        (b"F" + nested_table(600), 1),
    ],
    ids=repr,
)
def test_attempt_is_an_integer_within_bounds_or_the_first(value: bytes, attempt: int) -> None:
    assert attempt_of(with_header(value), 4) == attempt


def test_name_of_the_attempt_elsewhere_is_no_attempt() -> None:
    assert attempt_of(received(raw_properties(correlation_id=b"mx-attempt")), 4) == 1
    assert attempt_of(with_header(b"b\x03", b"mx-attempts"), 4) == 1
    assert attempt_of(with_header(b"F" + table(entry(b"mx-attempt", b"b\x03")), b"other"), 4) == 1


def test_first_of_two_attempts_counts_and_no_copy_has_two() -> None:
    twice = table(entry(b"mx-attempt", b"b\x02"), entry(b"mx-attempt", b"b\x03"))
    original = received(raw_properties(headers=twice))
    assert attempt_of(original, 4) == 2
    assert [name for name, _ in headers_in(retry_copy(original, 3))].count(b"mx-attempt") == 1


def test_message_with_as_many_headers_as_may_be_is_copied_again_and_again() -> None:
    """Its copies have more, of ours and the broker's: there is room for them."""
    original = received(raw_properties(headers=wide_table(4096), expiration=b"100", user_id=b"guest"))
    added = [
        (b"x-death", b"V"),
        *((b"x-%s-death-%d" % (kind, n), b"V") for kind in (b"first", b"last") for n in range(3)),
    ]
    copy = original
    for attempt in (2, 3, 4):
        copy = come_back(retry_copy(copy, attempt), *added, (b"x-delivery-count", b"b\x01"))
        assert attempt_of(copy, 4) == attempt
    shown = headers_of(split(copy.raw_properties))
    assert [each for each in shown if not each[0].startswith((b"mx-", b"x-"))] == entries_of(wide_table(4096)[4:])
    dead = come_back(copy_with_facts(copy, FACTS), *added)
    assert come_back(retry_copy(dead, 2), *added).properties.headers_raw == dead.properties.headers_raw


@given(
    raw=st.binary(max_size=200).map(lambda rest: rest + b"mx-attempt") | st.binary(max_size=400), most=st.integers(1)
)
@settings(max_examples=500)
def test_attempt_of_any_bytes_is_within_bounds(raw: bytes, most: int) -> None:
    assert 1 <= attempt_of(received(raw), most) <= most


def test_delivery_without_an_attempt_costs_nothing() -> None:
    plain = received(
        raw_properties(content_type=b"application/json", headers=table(field(b"n", b"V")), message_id=b"i")
    )
    started_at = time.thread_time()
    for _ in range(10_000):
        attempt_of(plain, 4)
    assert time.thread_time() - started_at < 0.5  # 50 us each; it takes a hundredth of that
    assert plain._decoded is None


def test_executions_in_place_are_attempts_and_returns_are_none() -> None:
    """The broker counts returns; a message that was given back is no closer to its end."""
    delivery = with_header(b"l" + struct.pack(">q", 10**9), b"x-delivery-count", redelivered=True)
    assert attempt_of(delivery, 4) == 1
    delivery = with_header(b"b\x02", redelivered=True)
    for executed, attempt in ((0, 2), (1, 3), (2, 4), (3, 4)):
        delivery.executed = executed
        assert attempt_of(delivery, 4) == attempt


# ---- dead letters


def test_dead_letter_carries_the_facts_and_shows_them_beside_its_own_headers() -> None:
    original = delivery_of({"message_id": b"id"}, [(b"n", b"t\x01"), (b"x-death", b"V")], (b"orders", b"new"))
    dead = come_back(copy_with_facts(original, FACTS))
    assert dead.headers == {
        "n": True,
        "mx-queue": "orders",
        "mx-handler": "shop.order",
        "mx-attempts": 4,
        "mx-reason": "failed",
        "mx-error-type": "ValueError",
        "mx-error": "no such order",
        "mx-failed-at": datetime(2024, 8, 1, 0, 0, tzinfo=UTC),
    }
    assert dead.message_id == "id"
    assert dead.origin is not None
    assert (dead.origin.exchange, dead.origin.routing_key) == ("orders", "new")
    assert dead.origin.headers == {"x-death": None}


def test_replayed_dead_letter_begins_at_its_first_attempt_and_dies_with_new_facts() -> None:
    first = come_back(copy_with_facts(come_back(retry_copy(delivery_of({}, []), 4)), FACTS))
    assert attempt_of(first, 4) == 1
    again = come_back(retry_copy(first, 2))
    assert attempt_of(again, 4) == 2
    assert again.headers["mx-error"] == "no such order"
    second = come_back(copy_with_facts(again, Facts("orders", "shop.order", 2, "timeout", "", "", 0)))
    assert second.headers["mx-reason"] == "timeout"
    assert len(headers_of(split(second.raw_properties))) == len(headers_of(split(first.raw_properties)))


@given(
    error_text=st.text(st.characters(exclude_categories=()), max_size=2000),
    name=st.text(st.characters(exclude_categories=()), max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_facts_are_printable_and_bounded_whatever_the_error_says(error_text: str, name: str) -> None:
    headers = Facts(name, name, 1, name, name, error_text, 0).headers()
    encode(headers)
    for key, value in headers.items():
        if isinstance(value, str):
            assert len(value.encode("utf-8")) <= (1024 if key == "mx-error" else 255)
            assert len(value.splitlines()) <= 1


def test_long_error_is_cut_at_a_character_and_says_so() -> None:
    shown = Facts("q", "h", 1, "failed", "E", "ä" * 10_000_000, 0).headers()["mx-error"]
    assert shown.startswith("ää")
    assert shown.endswith("ä[cut]")
    assert 1020 <= len(shown.encode()) <= 1024
