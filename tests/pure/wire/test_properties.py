"""Properties agree with pamqp where pamqp can read them, and never raise where it cannot."""

from __future__ import annotations

import datetime
import struct

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pamqp import commands, decode, encode
from pamqp.common import FieldTable

from mxworker.errors import DecodeError
from mxworker.wire.properties import Properties, join, message_id_bytes, split
from tests.harness.timing import timed
from tests.rabbit.raw import HOSTILE, NANOSECONDS, field, raw_properties, table

TEXTS = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
)
NUMBERS = ("delivery_mode", "priority", "timestamp")

short_texts = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
tables = st.dictionaries(
    st.text(min_size=1, max_size=10),
    st.integers(-(2**31), 2**31 - 1) | st.booleans() | st.text(max_size=10),
    max_size=4,
)
raw_values = st.fixed_dictionaries(
    {},
    optional={name: st.binary(max_size=255) for name in TEXTS}
    | {"headers": st.binary(max_size=100).map(lambda content: struct.pack(">I", len(content)) + content)}
    | {"delivery_mode": st.integers(0, 255), "priority": st.integers(0, 255), "timestamp": st.integers(0, 2**64 - 1)},
)


@given(
    texts=st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, short_texts.filter(bool))),
    headers=st.none() | tables.filter(bool),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    seconds=st.none() | st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_valid_properties_read_as_pamqp_wrote_them(
    texts: dict[str, str],
    headers: FieldTable | None,
    delivery_mode: int | None,
    priority: int | None,
    seconds: int | None,
) -> None:
    """pamqp writes no empty texts and tables, and calls the type `message_type`."""
    sent = commands.Basic.Properties(
        headers=headers,
        delivery_mode=delivery_mode,
        priority=priority,
        timestamp=None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC),
        **{"message_type" if name == "type" else name: text for name, text in texts.items()},
    )
    read = Properties(sent.marshal())
    for name in TEXTS:
        assert getattr(read, name) == texts.get(name), name
    assert (read.delivery_mode, read.priority, read.timestamp) == (delivery_mode, priority, seconds)
    assert read.headers_raw == (None if headers is None else encode.field_table(headers)[4:])
    if headers:
        assert read.headers_raw is not None
        size = struct.pack(">I", len(read.headers_raw))
        assert decode.field_table(size + read.headers_raw)[1] == headers


@given(values=raw_values)
@settings(max_examples=300)
def test_any_bytes_in_a_text_survive_the_round_trip(values: dict[str, bytes | int]) -> None:
    read = Properties(raw_properties(**values))
    for name in TEXTS:
        text = getattr(read, name)
        assert (None if text is None else text.encode("utf-8", "surrogateescape")) == values.get(name), name
    for name in NUMBERS:
        assert getattr(read, name) == values.get(name), name


@given(raw=st.binary(max_size=400))
@settings(max_examples=1000)
def test_no_bytes_whatever_raise(raw: bytes) -> None:
    Properties(raw)
    message_id_bytes(raw)


@given(flags=st.integers(0, 2**16 - 1), rest=st.binary(max_size=60))
@settings(max_examples=1000)
def test_the_short_cut_to_the_message_id_agrees_with_the_long_way(flags: int, rest: bytes) -> None:
    raw = struct.pack(">H", flags) + rest
    whole = Properties(raw).message_id
    assert message_id_bytes(raw) == (b"" if whole is None else whole.encode("utf-8", "surrogateescape"))


@given(values=raw_values, data=st.data())
@settings(max_examples=300)
def test_cut_properties_lose_what_follows_the_cut_and_nothing_else(
    values: dict[str, bytes | int], data: st.DataObject
) -> None:
    raw = raw_properties(**values)
    assume(len(raw) > 2)
    cut = data.draw(st.integers(0, len(raw) - 1))
    whole, read = Properties(raw), Properties(raw[:cut])
    present = [name for name in Properties.__slots__ if getattr(read, name) is not None]
    assert all(getattr(read, name) == getattr(whole, name) for name in present)
    if cut > 2:
        in_order = [name for name in _wire_order() if getattr(whole, name) is not None]
        assert [name for name in in_order if name in present] == in_order[: len(present)]


def _wire_order() -> tuple[str, ...]:
    return (
        *("content_type", "content_encoding", "headers_raw", "delivery_mode", "priority", "correlation_id"),
        *("reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id"),
    )


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_properties_cost_no_time(kind: str) -> None:
    assert timed(lambda: Properties(HOSTILE[kind]))[1] < 0.01


def test_nanosecond_timestamp_is_the_number_that_was_sent() -> None:
    assert Properties(HOSTILE["timestamp in nanoseconds"]).timestamp == NANOSECONDS
    assert Properties(HOSTILE["timestamp of all ones"]).timestamp == 2**64 - 1


def test_header_table_with_a_size_past_the_end_hides_what_follows_and_no_more() -> None:
    raw = raw_properties(content_type=b"text", headers=table() + b"", message_id=b"id")
    broken = raw.replace(table(), struct.pack(">I", 2**32 - 1))
    read = Properties(broken)
    assert (read.content_type, read.headers_raw, read.message_id) == ("text", None, None)
    assert message_id_bytes(broken) == b""


# ---- splitting


@given(values=raw_values, cluster_id=st.none() | st.binary(max_size=20))
@settings(max_examples=300)
def test_properties_split_and_join_to_the_same_bytes(values: dict[str, bytes | int], cluster_id: bytes | None) -> None:
    raw = raw_properties(**values, **({} if cluster_id is None else {"cluster_id": cluster_id}))
    in_parts = split(raw)
    assert list(in_parts) == sorted(in_parts, reverse=True)
    assert join(in_parts) == raw
    assert join(dict(sorted(in_parts.items()))) == raw


@given(values=raw_values, data=st.data())
@settings(max_examples=300)
def test_properties_that_are_cut_short_do_not_split(values: dict[str, bytes | int], data: st.DataObject) -> None:
    raw = raw_properties(**values)
    with pytest.raises(DecodeError, match="cut short"):
        split(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(raw=st.binary(min_size=2, max_size=400))
@settings(max_examples=500)
def test_any_bytes_split_as_they_read_or_are_refused(raw: bytes) -> None:
    try:
        in_parts = split(raw)
    except DecodeError:
        return
    whole, again = Properties(raw), Properties(join(in_parts))
    assert all(getattr(again, name) == getattr(whole, name) for name in _wire_order())


# ---- headers


def test_headers_are_decoded_once_and_only_when_asked_for() -> None:
    read = Properties(raw_properties(headers=table(field(b"n", b"t", b"\x01"))))
    assert read.headers == {"n": True}
    assert read.headers is read.headers


def test_no_headers_are_an_empty_dict() -> None:
    assert Properties(raw_properties(message_id=b"id")).headers == {}


def test_hostile_headers_are_an_error_for_who_asks_and_for_nobody_else() -> None:
    read = Properties(HOSTILE["headers nested 600 deep"])
    assert read.delivery_mode == 2
    for _ in range(2):
        with pytest.raises(DecodeError, match="inside each other"):
            read.headers  # noqa: B018
