"""Headers survive the way to the wire and back, or are refused; no bytes whatever cost more than an error."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import decode as pamqp_decode
from pamqp import encode as pamqp_encode

from mxworker.errors import DecodeError, EncodeError
from mxworker.wire.field_table import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_SPLIT,
    Timestamp,
    decode,
    encode,
    entries,
    entry,
    integer,
)
from tests.harness.timing import timed
from tests.rabbit.raw import NOT_UTF_8, field, nested_table, table, wide_table

AFTER_ALL_DATETIMES = 253_402_300_800

surrogates = st.binary(max_size=20).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
texts = st.text(max_size=30) | surrogates
names = texts.filter(lambda name: len(name.encode("utf-8", "surrogateescape")) <= 255)
zones = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=zones).map(
    lambda moment: moment.replace(microsecond=0)
)
decimals = st.builds(
    lambda unscaled, scale: Decimal(f"{unscaled}E-{scale}"), st.integers(0, 2**31 - 1), st.integers(0, 255)
)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | floats
    | texts
    | st.binary(max_size=30)
    | moments
    | st.integers(AFTER_ALL_DATETIMES, 2**64 - 1).map(Timestamp)
    | decimals
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=20
)
tables = st.dictionaries(names, values, max_size=6)

FIXED_SIZES = {**dict.fromkeys("tbB", 1), **dict.fromkeys("su", 2), **dict.fromkeys("Ii", 4), **dict.fromkeys("lLT", 8)}


def sized(octet: bytes, content: bytes) -> bytes:
    return octet + struct.pack(">I", len(content)) + content


raw_names = st.binary(max_size=255)
raw_scalars = st.one_of(
    st.just(b"V"),
    *(st.binary(min_size=size, max_size=size).map(octet.encode().__add__) for octet, size in FIXED_SIZES.items()),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda number: b"f" + struct.pack(">f", number)),
    floats.map(lambda number: b"d" + struct.pack(">d", number)),
    st.binary(min_size=5, max_size=5).map(b"D".__add__),
    st.binary(max_size=30).map(lambda content: sized(b"S", content)),
    st.binary(max_size=30).map(lambda content: sized(b"x", content)),
)
raw_values = st.recursive(
    raw_scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda values: sized(b"A", b"".join(values)))
        | st.lists(st.builds(entry, raw_names, inner), max_size=4).map(lambda fields: sized(b"F", b"".join(fields)))
    ),
    max_leaves=10,
)
raw_entries = st.lists(st.tuples(raw_names, raw_values), max_size=6)
"""Entries of every type that RabbitMQ knows, those that are only read included."""


def same(one: object, other: object) -> bool:
    """Say whether two values are equal and of the same types, all the way down."""
    match one, other:
        case dict(), dict():
            return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
        case list(), list():
            return len(one) == len(other) and all(map(same, one, other))
        case float(), float():
            return math.copysign(1, one) == math.copysign(1, other) and one == other
    return type(one) is type(other) and one == other


# ---- there and back


@given(sent=tables)
@settings(max_examples=500, deadline=None)
def test_headers_survive_the_way_there_and_back(sent: dict[str, Any]) -> None:
    assert same(decode(encode(sent)), sent)


@given(sent=tables)
@settings(max_examples=200, deadline=None)
def test_what_was_read_is_written_as_the_same_bytes(sent: dict[str, Any]) -> None:
    raw = encode(sent)
    assert encode(decode(raw)) == raw


def test_tuples_and_buffers_come_back_as_what_they_hold() -> None:
    sent = {"tuple": (1, ("a",)), "bytearray": bytearray(b"\x00\xff"), "memoryview": memoryview(b"ab")}
    assert decode(encode(sent)) == {"tuple": [1, ["a"]], "bytearray": b"\x00\xff", "memoryview": b"ab"}


def test_timestamp_that_a_datetime_can_hold_comes_back_as_one() -> None:
    assert decode(encode({"at": Timestamp(0)})) == {"at": datetime(1970, 1, 1, tzinfo=UTC)}
    last = Timestamp(AFTER_ALL_DATETIMES - 1)
    assert decode(encode({"at": last})) == {"at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}


def test_timestamp_in_nanoseconds_keeps_its_type_and_says_so() -> None:
    read = decode(encode({"at": Timestamp(1_722_470_400_123_456_789)}))["at"]
    assert type(read) is Timestamp
    assert repr(read) == "Timestamp(1722470400123456789)"


def test_decimal_keeps_its_places() -> None:
    assert str(decode(encode({"price": Decimal("1.10")}))["price"]) == "1.10"
    assert decode(encode({"price": Decimal("1E3")})) == {"price": Decimal(1000)}


# ---- agreement with pamqp, where it is right


@given(
    sent=st.dictionaries(
        st.text(max_size=30),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.lists(st.text()),
        max_size=6,
    )
)
@settings(deadline=None)
def test_what_pamqp_writes_is_read(sent: dict[str, Any]) -> None:
    in_its_order = dict(sorted(sent.items()))
    assert same(decode(pamqp_encode.field_table(sent)[4:]), in_its_order)


@given(
    sent=st.dictionaries(
        st.text(max_size=30),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | floats
            | st.text(max_size=20)
            | st.binary(max_size=20)
            | moments.filter(lambda moment: moment.year < 2100),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=30), inner, max_size=3),
        ),
        max_size=6,
    )
)
@settings(deadline=None)
def test_what_we_write_is_read_by_pamqp(sent: dict[str, Any]) -> None:
    raw = encode(sent)
    assert pamqp_decode.field_table(struct.pack(">I", len(raw)) + raw)[1] == sent


# ---- reading


@pytest.mark.parametrize(
    ("octet", "content", "value"),
    [
        (b"t", b"\x00", False),
        (b"t", b"\x02", True),
        (b"b", b"\xff", -1),
        (b"B", b"\xff", 255),
        (b"s", b"\xff\xfe", -2),
        (b"u", b"\xff\xfe", 65534),
        (b"I", b"\xff" * 4, -1),
        (b"i", b"\xff" * 4, 2**32 - 1),
        (b"l", b"\xff" * 8, -1),
        (b"L", b"\xff" * 8, -1),
        (b"f", struct.pack(">f", 0.5), 0.5),
        (b"d", struct.pack(">d", 0.1), 0.1),
        (b"D", b"\x02" + b"\xff" * 4, Decimal("42949672.95")),
        (b"S", b"\x00\x00\x00\x02hi", "hi"),
        (b"x", b"\x00\x00\x00\x02hi", b"hi"),
        (b"V", b"", None),
        (b"T", struct.pack(">Q", 86_400), datetime(1970, 1, 2, tzinfo=UTC)),
        (b"T", b"\xff" * 8, Timestamp(2**64 - 1)),
        (b"A", b"\x00\x00\x00\x03V" + b"t\x01", [None, True]),
        (b"F", table(field(b"a", b"V")), {"a": None}),
    ],
)
def test_types_read_as_rabbitmq_reads_them(octet: bytes, content: bytes, value: object) -> None:
    assert same(decode(field(b"name", octet, content)), {"name": value})


def test_names_and_strings_that_are_no_utf_8_survive() -> None:
    raw = field(NOT_UTF_8, b"S", struct.pack(">I", len(NOT_UTF_8)) + NOT_UTF_8)
    assert encode(decode(raw)) == raw


def test_no_bytes_are_no_headers() -> None:
    assert decode(b"") == {}


@given(raw=st.binary(max_size=400))
@settings(max_examples=1000)
def test_random_bytes_decode_or_are_refused(raw: bytes) -> None:
    decode_or_refuse(raw)


@given(sent=tables, data=st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_headers_decode_or_are_refused(sent: dict[str, Any], data: st.DataObject) -> None:
    raw = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def decode_or_refuse(raw: bytes) -> None:
    try:
        decode(raw)
    except DecodeError:
        pass


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x05ab", "cut short"),
        (b"\x01a", "cut short"),
        (field(b"a", b"I", b"\x00"), "cut short"),
        (field(b"a", b"S", b"\xff\xff\xff\xffS3cr3t"), "cut short"),
        (field(b"a", b"F", b"\x00\x00\x00\x09\x01bV"), "cut short"),
        (field(b"a", b"F", b"\x00\x00\x00\x04\x01bS\x00") + field(b"c", b"V"), "cut short"),
        (field(b"a", b"S3cr3t"[1:2]), "of the unknown type 0x33 at byte 2"),
        (field(b"a", b"U", b"\x00\x00"), "of the unknown type 0x55"),
        (nested_table(MAX_DEPTH)[4:], "more than 32 tables and arrays inside each other"),
        (wide_table(MAX_ENTRIES + 1)[4:], "more than 4096 entries"),
    ],
)
def test_broken_headers_say_what_is_wrong_and_nothing_they_hold(raw: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why) as caught:
        decode(raw)
    assert "S3cr3t" not in str(caught.value)


def test_headers_up_to_the_limits_are_read() -> None:
    assert len(decode(wide_table(MAX_ENTRIES)[4:])) == MAX_ENTRIES
    assert decode(nested_table(MAX_DEPTH - 1)[4:])


def array_of(entries: int) -> bytes:
    return field(b"a", b"A", struct.pack(">I", entries) + b"V" * entries)


@pytest.mark.parametrize(
    "raw",
    [
        nested_table(100)[4:],
        nested_table(600)[4:],
        nested_table(5000)[4:],
        field(b"", b"V") * 60_000,
        array_of(128_000),
        wide_table(20_000)[4:],
        field(b"a", b"F", table()) * 18_000,
        b"".join(field(b"%d" % n, b"S", b"\x00\x00\x00\x14" + b"x" * 20) for n in range(MAX_ENTRIES)),
    ],
    ids=["100 deep", "600 deep", "5000 deep", "60k empty", "array", "wide", "tables", "as many as may be"],
)
def test_hostile_headers_cost_no_time(raw: bytes) -> None:
    _, took_s = timed(lambda: decode_or_refuse(raw))
    assert took_s < 0.05


# ---- splitting


def joined(split: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(entry(name, value) for name, value in split)


@given(sent=raw_entries)
@settings(max_examples=500, deadline=None)
def test_entries_of_every_type_are_found_and_join_to_the_same_bytes(sent: list[tuple[bytes, bytes]]) -> None:
    assert entries(joined(sent)) == sent


@given(sent=raw_entries)
@settings(max_examples=300, deadline=None)
def test_each_entry_alone_reads_as_it_does_in_its_table(sent: list[tuple[bytes, bytes]]) -> None:
    one_by_one: dict[str, Any] = {}
    for name, value in sent:
        one_by_one.update(decode(entry(name, value)))
    assert same(decode(joined(sent)), one_by_one)


@given(sent=raw_entries, data=st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_headers_split_or_are_refused_and_what_reads_splits(
    sent: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    raw = bytearray(joined(sent))
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        split = entries(damaged)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(damaged)
    else:
        assert joined(split) == damaged


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x05ab", "cut short"),
        (b"\x01a", "cut short"),
        (field(b"a", b"V") + field(b"a", b"I", b"\x00"), "cut short: a value at byte 3 "),
        (field(b"a", b"S", b"\xff\xff\xff\xffS3cr3t"), "cut short"),
        (field(b"a", b"S", b"\x00\x00"), "cut short"),
        (field(b"a", b"F", b"\x00\x00\x00\x09\x01bV"), "cut short"),
        (field(b"a", b"S3cr3t"[1:2]), "of the unknown type 0x33 at byte 2"),
    ],
)
def test_broken_headers_do_not_split_and_the_error_shows_nothing_they_hold(raw: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why) as caught:
        entries(raw)
    assert "S3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (nested_table(5000)[4:], 1),
        (array_of(128_000), 1),
        (wide_table(MAX_SPLIT)[4:], MAX_SPLIT),
    ],
    ids=["5000 deep", "array", "wide"],
)
def test_splitting_hostile_headers_costs_no_time(raw: bytes, count: int) -> None:
    found, took_s = timed(lambda: entries(raw))
    assert len(found) == count
    assert took_s < 0.05


@pytest.mark.parametrize("split", [entries, lambda raw: integer(raw, b"last")], ids=["entries", "integer"])
def test_more_entries_than_may_be_are_not_split(split: Callable[[bytes], Any]) -> None:
    with pytest.raises(DecodeError, match="more than 4160 entries"):
        split(field(b"", b"V") * MAX_SPLIT + field(b"last", b"b", b"\x01"))


@given(sent=raw_entries, name=raw_names)
@settings(max_examples=300, deadline=None)
def test_integer_is_that_of_the_first_entry_of_its_name(sent: list[tuple[bytes, bytes]], name: bytes) -> None:
    raw = joined(sent)
    for wanted in {name, *(name for name, _ in sent)}:
        first = next((decode(entry(b"", value))[""] for name, value in sent if name == wanted), None)
        assert integer(raw, wanted) == (first if type(first) is int else None)


def test_integer_is_found_before_what_is_broken_and_not_inside_other_values() -> None:
    one = field(b"n", b"b", b"\x01")
    assert integer(one + b"\x05ab", b"n") == 1
    assert integer(entry(b"other", b"F" + table(one)) + field(b"n", b"b", b"\x02"), b"n") == 2
    assert integer(entry(b"other", b"F" + table(one)), b"n") is None
    with pytest.raises(DecodeError, match="cut short"):
        integer(field(b"n", b"I", b"\x00\x00"), b"n")


# ---- writing


def cycle() -> dict[str, Any]:
    endless: dict[str, Any] = {}
    endless["again"] = [endless]
    return endless


def explosion() -> list[Any]:
    """Return a list that is small in memory and has 2**30 entries on the wire."""
    inner: list[Any] = []
    for _ in range(30):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (2**63, "more than 64 bits"),
        (-(2**63) - 1, "more than 64 bits"),
        (math.nan, "NaN"),
        (math.inf, "infinity"),
        (datetime(2026, 1, 1), "no time zone"),
        (datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "fraction of a second"),
        (datetime(1969, 12, 31, tzinfo=UTC), "begins in 1970"),
        (Timestamp(-1), "begins in 1970"),
        (Timestamp(2**64), "has 64 bits"),
        (Decimal(-1), "not negative"),
        (Decimal("-0"), "not negative"),
        (Decimal("NaN"), "finite"),
        (Decimal("Infinity"), "finite"),
        (Decimal(2**31), "at most 2147483647"),
        (Decimal("1E+1000000"), "at most 2147483647"),
        (Decimal("1E-256"), "at most 255 decimal places"),
        (Decimal("9" * 1000), "at most 2147483647"),
        ("\ud800", "not Unicode"),
        ({"\ud800": 1}, "not Unicode"),
        ({"n" * 256: 1}, "the name has 256 bytes"),
        ({"ä" * 128: 1}, "the name has 256 bytes"),
        ({7: 1}, "a name is a str"),
        ({1, 2}, "a set has no form"),
        pytest.param(object(), "a object has no form", id="object"),
        (1j, "a complex has no form"),
        ([None] * MAX_ENTRIES, "more than 4096 entries"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_would_not_survive_is_refused(value: object, why: str) -> None:
    with pytest.raises(EncodeError, match=why):
        encode({"name": value})


def test_refusal_names_the_way_to_the_value_and_not_the_value() -> None:
    with pytest.raises(EncodeError) as caught:
        encode({"orders": [1, {"S3cr3t": "S3cr3t", "total": Decimal(-7)}]})
    assert str(caught.value) == "headers['orders'][1]['total']: a decimal field is finite and not negative"


def test_refusal_of_a_long_name_is_short() -> None:
    with pytest.raises(EncodeError) as caught:
        encode({"n" * 1_000_000: 1})
    assert len(str(caught.value)) < 200


def test_deepest_headers_that_are_written_can_be_read() -> None:
    deepest: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 1):
        deepest = {"n": deepest}
    assert decode(encode(deepest)) == deepest


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (cycle, "more than 32 tables"),
        (lambda: {"a": explosion()}, "more than 4096 entries"),
        (lambda: {"a": Decimal("1E+999999999")}, "at most"),
    ],
    ids=["cycle", "explosion", "decimal"],
)
def test_refusing_costs_no_time(make: Callable[[], dict[str, Any]], why: str) -> None:
    headers = make()

    def refuse() -> None:
        with pytest.raises(EncodeError, match=why):
            encode(headers)

    assert timed(refuse)[1] < 0.05
