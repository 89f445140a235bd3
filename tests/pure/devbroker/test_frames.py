"""Frames cut at any byte, and methods written by hand that pamqp reads as meant."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header
from pamqp import frame as codec

from mxworker.devbroker import frames

FRAMES = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), st.binary(max_size=300)), min_size=1, max_size=8
)
TAGS = st.integers(1, 2**63 - 1)
NAMES = st.text("abc.-_", max_size=20)


def encoded(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


@given(FRAMES, st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_whole_wherever_the_bytes_are_cut(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    reader = frames.FrameReader()
    data = b"".join(encoded(*frame) for frame in sent)
    got = []
    at = 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        got += reader.feed(data[at : at + size])
        at += size
    assert got == sent
    assert reader.fault is None


@given(FRAMES, st.integers(0, 255).filter(lambda end: end != 0xCE))
def test_a_wrong_end_is_told_after_the_frames_before_it(sent: list[tuple[int, int, bytes]], end: int) -> None:
    reader = frames.FrameReader()
    good = b"".join(encoded(*frame) for frame in sent)
    assert list(reader.feed(good + encoded(1, 1, b"broken")[:-1] + bytes((end,)) + good)) == sent
    assert reader.fault is not None
    assert reader.fault.code == 501
    assert list(reader.feed(good)) == []


def test_a_frame_above_the_maximum_is_refused_by_its_head() -> None:
    reader = frames.FrameReader()
    assert list(reader.feed(struct.pack(">BHI", 3, 1, 2**32 - 1))) == []
    assert reader.fault is not None
    assert "frame_too_large" in reader.fault.text


@given(TAGS, st.booleans(), NAMES, NAMES, NAMES)
def test_deliver(tag: int, redelivered: bool, consumer: str, exchange: str, key: str) -> None:
    address = frames.short_string(exchange) + frames.short_string(key)
    raw = frames.deliver(5, frames.deliver_prefix(consumer), tag, redelivered, address)
    _, channel, method = codec.unmarshal(raw)
    assert isinstance(method, commands.Basic.Deliver)
    assert channel == 5
    assert (method.consumer_tag, method.delivery_tag, method.redelivered) == (consumer, tag, redelivered)
    assert (method.exchange, method.routing_key) == (exchange, key)


@given(TAGS, st.booleans(), NAMES, NAMES, st.integers(0, 2**31))
def test_get_ok_and_return(tag: int, redelivered: bool, exchange: str, key: str, ready: int) -> None:
    address = frames.short_string(exchange) + frames.short_string(key)
    got = codec.unmarshal(frames.get_ok(1, tag, redelivered, address, ready))[2]
    assert isinstance(got, commands.Basic.GetOk)
    assert (got.delivery_tag, got.redelivered, got.exchange, got.routing_key) == (tag, redelivered, exchange, key)
    assert got.message_count == ready
    returned = codec.unmarshal(frames.returned(1, 312, "NO_ROUTE", address))[2]
    assert isinstance(returned, commands.Basic.Return)
    assert (returned.reply_code, returned.reply_text, returned.exchange) == (312, "NO_ROUTE", exchange)


@given(TAGS, st.booleans(), st.sampled_from([frames.ACK, frames.NACK]))
def test_settlements(tag: int, multiple: bool, method: int) -> None:
    got = codec.unmarshal(frames.settlement(1, method, tag, multiple))[2]
    assert isinstance(got, commands.Basic.Ack | commands.Basic.Nack)
    assert (got.delivery_tag, got.multiple, got.index) == (tag, multiple, method)


@given(st.integers(0, 20_000), st.sampled_from([0, 4096, 131_072]))
def test_content(size: int, frame_max: int) -> None:
    body = bytes(number % 251 for number in range(size))
    properties = commands.Basic.Properties(message_id="m", headers={"a": 1})
    raw = frames.content(3, properties.marshal(), body, frame_max)
    reader = frames.FrameReader()
    reader.frame_max = frame_max or frames.UNLIMITED
    (first, *rest) = reader.feed(raw)
    content = header.ContentHeader()
    content.unmarshal(first[2])
    assert (first[0], first[1], content.body_size) == (2, 3, len(body))
    assert content.properties.message_id == "m"
    assert b"".join(payload for _, _, payload in rest) == body
    assert all(kind == 3 and len(payload) + 8 <= (frame_max or 2**31) for kind, _, payload in rest)
