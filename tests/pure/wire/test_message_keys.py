"""The key of a message: of all that its publisher sent, and of nothing that the broker adds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.page import Board
from mxworker.wire.field_table import MAX_SPLIT
from mxworker.wire.message_keys import MessageKeys
from tests.rabbit import raw

KEYS = MessageKeys(b"secret", "orders")
ROUTE = raw.short_string(b"events") + raw.short_string(b"order.new")
TENANT = raw.field(b"tenant", b"S", raw.text(b"a"))
TRACE = raw.field(b"trace", b"l", b"\1" * 8)
PROPERTIES: dict[str, bytes | int] = {
    "content_type": b"text/plain",
    "content_encoding": b"gzip",
    "headers": raw.table(TENANT, TRACE),
    "delivery_mode": 2,
    "priority": 1,
    "correlation_id": b"c",
    "reply_to": b"r",
    "expiration": b"1000",
    "message_id": b"id",
    "timestamp": 1,
    "type": b"t",
    "user_id": b"u",
    "app_id": b"a",
}


def key(body: bytes = b"body", route: bytes = ROUTE, **changes: bytes | int) -> int:
    return KEYS.key(raw.raw_properties(**{**PROPERTIES, **changes}), route, body)


def counted(name: bytes, count: int) -> bytes:
    """Return the header in which RabbitMQ says how often it has delivered."""
    return raw.field(name, b"l", count.to_bytes(8, "big"))


def test_same_message_has_the_same_key_in_every_process_of_a_service_and_another_one_in_the_next() -> None:
    board, other = Board(2), Board(1)
    first, second, strange = (
        MessageKeys(slot.secret, "orders").key(b"\0\0", ROUTE, b"body") for slot in (*board.slots, other.slot(1))
    )
    assert first == second != strange
    assert -(2**63) <= first < 2**63


def test_every_thing_that_the_publisher_sent_makes_another_message() -> None:
    others = [
        MessageKeys(b"secret", "other").key(raw.raw_properties(**PROPERTIES), ROUTE, b"body"),
        key(body=b"bodY"),
        key(body=b""),
        key(route=raw.short_string(b"events") + raw.short_string(b"order.old")),
        key(route=raw.short_string(b"event") + raw.short_string(b"order.new")),
        key(route=raw.short_string(b"eventso") + raw.short_string(b"rder.new")),
        key(headers=raw.table(TENANT)),
        key(headers=raw.table(TENANT, raw.field(b"trace", b"l", bytes(8)))),
        key(headers=raw.table(TENANT, TRACE, raw.field(b"x-death", b"A", raw.table()))),
        key(headers=raw.table(TENANT, TRACE, raw.field(b"X-delivery-count", b"l", bytes(8)))),
        *(
            KEYS.key(raw.raw_properties(**{k: v for k, v in PROPERTIES.items() if k != name}), ROUTE, b"body")
            for name in PROPERTIES
        ),
        *(
            key(**{name: value + 1 if isinstance(value, int) else value + b"x"})
            for name, value in PROPERTIES.items()
            if name != "headers"
        ),
    ]
    assert len({key(), *others}) == 1 + len(others)


@pytest.mark.parametrize("at", [0, 40_000, 70_000, 150_000, 200_000 - 1])
def test_large_bodies_count_in_full(at: int) -> None:
    body = bytearray(200_000)
    same = key(body=bytes(body))
    assert same == key(body=bytes(200_000))
    assert same != key(body=bytes(199_999))
    body[at] = 1
    assert same != key(body=bytes(body))


def test_no_small_body_has_the_key_of_a_large_one() -> None:
    large = bytes(range(256)) * 1024
    assert key(body=KEYS._digests(large)) != key(body=large)


@pytest.mark.parametrize("sent", [[], [TENANT], [TRACE, TENANT], [TENANT, TRACE]])
def test_counts_of_the_broker_and_the_order_that_it_makes_change_nothing(sent: list[bytes]) -> None:
    same = key(headers=raw.table(*sent))
    for count in range(3):
        added = [counted(b"x-acquired-count", count), counted(b"x-delivery-count", count)]
        assert key(headers=raw.table(*sorted([*sent, *added]))) == same
    assert key(headers=raw.table(*sent, *added, *added)) == same


def test_message_without_headers_keeps_its_key_when_the_broker_adds_the_first() -> None:
    bare = {name: value for name, value in PROPERTIES.items() if name != "headers"}
    sent = raw.raw_properties(**bare)
    again = raw.raw_properties(**bare, headers=raw.table(counted(b"x-delivery-count", 1)))
    assert KEYS.key(sent, ROUTE, b"body") == KEYS.key(again, ROUTE, b"body")


def test_of_two_headers_of_one_name_the_order_counts() -> None:
    one, two = (raw.field(b"a", b"I", bytes((0, 0, 0, number))) for number in (1, 2))
    assert key(headers=raw.table(one, two)) != key(headers=raw.table(two, one))


@pytest.mark.parametrize("broken", [b"\x01aZ", b"\x05a", raw.wide_table(MAX_SPLIT + 1)[4:]])
def test_headers_that_cannot_be_split_keep_their_key_while_the_broker_counts(broken: bytes) -> None:
    keys = {key(headers=raw.table(counted(b"x-delivery-count", count), broken)) for count in (1, 2, 300)}
    assert len(keys) == 1
    assert key(headers=raw.table(broken, b"?")) not in keys


@given(st.binary(max_size=300), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_have_a_key(properties: bytes, route: bytes, body: bytes) -> None:
    assert KEYS.key(properties, route, body)


cuts = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted)


@given(st.binary(min_size=20, max_size=20), cuts, cuts)
def test_same_bytes_cut_elsewhere_are_another_message(content: bytes, one: list[int], other: list[int]) -> None:
    without_headers = b"\0" + content[1:]
    keys = {KEYS.key(without_headers[:a], without_headers[a:b], without_headers[b:]) for a, b in (one, other)}
    assert len(keys) == (1 if one == other else 2)
