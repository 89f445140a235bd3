"""A delivery shows what came on the wire, whatever that is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from mxworker.api.delivery import Delivery, source_of
from tests.harness.nowhere import Nowhere
from tests.rabbit.raw import NOT_UTF_8, field, raw_properties, table

names = st.text("aZ9-_.:@#,/+ ", max_size=40)
short_texts = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)


def delivery(raw: bytes = b"\x00\x00", route: bytes = b"\x00\x00", body: bytes = b"") -> Delivery:
    return Delivery(body, raw, route, False, 1, Nowhere())


@given(exchange=names, routing_key=short_texts)
def test_exchange_and_routing_key_read_as_pamqp_wrote_them(exchange: str, routing_key: str) -> None:
    method = commands.Basic.Deliver("tag", 1, False, exchange, routing_key)
    route = method.marshal()[1 + len("tag") + 8 + 1 :]
    read = delivery(route=route)
    assert (read.exchange, read.routing_key) == (exchange, routing_key)


@given(route=st.binary(max_size=30))
def test_cut_route_never_raises(route: bytes) -> None:
    read = delivery(route=route)
    assert isinstance(read.exchange + read.routing_key, str)


def test_properties_are_decoded_once_and_only_when_asked_for() -> None:
    read = delivery(raw_properties(message_id=b"an id"))
    assert read.properties is read.properties
    assert read.message_id == "an id"


def test_delivery_is_stale_when_its_channel_is_lost() -> None:
    read = delivery()
    assert not read.is_stale
    source_of(read).is_lost = True
    assert read.is_stale


def test_repr_shows_no_body() -> None:
    assert "S3cr3t" not in repr(delivery(body=b"S3cr3t"))
    assert "6 bytes" in repr(delivery(body=b"S3cr3t"))


@given(raw=st.binary(max_size=400))
@settings(max_examples=300)
def test_no_bytes_whatever_keep_it_from_being_shown(raw: bytes) -> None:
    repr(delivery(raw, raw, raw)).encode("utf-8")


def test_message_id_that_is_no_utf_8_can_be_printed_and_logged() -> None:
    odd = delivery(raw_properties(message_id=NOT_UTF_8))
    assert odd.message_id is not None
    assert odd.message_id.encode("utf-8", "surrogateescape") == NOT_UTF_8
    repr(odd).encode("utf-8")


def test_headers_are_those_of_the_properties() -> None:
    read = delivery(raw_properties(headers=table(field(b"n", b"t", b"\x01"))))
    assert read.headers == {"n": True}
    assert read.headers is read.properties.headers
