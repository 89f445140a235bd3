"""What a publisher writes and hears, on the wire, agrees with pamqp, wherever the byte stream is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base, body, commands, header
from pamqp import frame as frames

from mxworker.amqp.protocol.frames import FRAME_OVERHEAD, content_pieces, encode_publish, max_properties_bytes
from mxworker.amqp.protocol.reader import FrameReader
from mxworker.errors import ChannelLost, ConnectionLost, ProtocolViolation
from mxworker.system.printable import foreign

CAP = 40
CHANNEL = 5
START = frames.marshal(commands.Connection.Start(server_properties={"product": "a broker"}), 0)
PROPERTIES = commands.Basic.Properties(message_id="an id", delivery_mode=2, headers={"a": 1})


class Calls:
    """A publisher's sink that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        self.calls.append(("ack" if is_ack else "nack", tag, multiple))

    def on_return(self, reply: tuple[int, str], properties: bytes) -> None:
        self.calls.append(("return", *reply, properties))

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        self.calls.append(("end", type(error)))


tags = st.integers(0, 2**63 - 1)
names = st.text("aZ9-_.:@#,/+ ", max_size=8)
confirms = st.builds(commands.Basic.Ack, tags, st.booleans()) | st.builds(
    commands.Basic.Nack, tags, st.booleans(), st.just(False)
)
returns = st.builds(commands.Basic.Return, st.integers(300, 599), st.text(max_size=20), names, names)
units = st.lists(
    confirms.map(lambda confirm: [confirm])
    | st.tuples(returns, st.lists(st.binary(min_size=1, max_size=60), max_size=3)).map(
        lambda parts: returned(parts[0], parts[1])
    ),
    max_size=8,
)


def returned(method: base.Frame, parts: Sequence[bytes]) -> list[frames.FrameTypes]:
    """Return the frames of a returned message."""
    size = sum(len(part) for part in parts)
    return [method, header.ContentHeader(0, size, PROPERTIES), *(body.ContentBody(part) for part in parts)]


def told_by_pamqp(methods: Sequence[frames.FrameTypes]) -> list[tuple[object, ...]]:
    told: list[tuple[object, ...]] = []
    for method in methods:
        match method:
            case commands.Basic.Ack():
                told.append(("ack", method.delivery_tag, method.multiple))
            case commands.Basic.Nack():
                told.append(("nack", method.delivery_tag, method.multiple))
            case commands.Basic.Return():
                told.append(("return", method.reply_code, foreign(method.reply_text), PROPERTIES.marshal()))
    return told


def reader() -> tuple[FrameReader, Calls]:
    found, sink = FrameReader(CAP), Calls()
    found.register_publisher(CHANNEL, sink)
    found.feed(START)
    return found, sink


@given(units=units, data=st.data())
@settings(deadline=None)
def test_confirms_and_returns_mean_what_pamqp_says(units: list[list[frames.FrameTypes]], data: st.DataObject) -> None:
    methods = [frame for unit in units for frame in unit]
    stream = b"".join(frames.marshal(frame, CHANNEL) for frame in methods)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    taken, sink = reader()
    edges = [0, *sorted(cuts), len(stream)]
    passed = b"".join(taken.feed(stream[begin:end]) for begin, end in pairwise(edges))
    assert sink.calls == told_by_pamqp(methods)
    assert passed == b""


def test_answers_to_requests_pass_and_the_end_is_told() -> None:
    taken, sink = reader()
    answer = frames.marshal(commands.Confirm.SelectOk(), CHANNEL)
    close = frames.marshal(commands.Channel.Close(404, "NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40), CHANNEL)
    assert taken.feed(answer + close) == answer + close
    assert sink.calls == [("end", ChannelLost)]
    confirm = frames.marshal(commands.Basic.Ack(1), CHANNEL)
    assert taken.feed(confirm) == confirm, "the number belongs to somebody else now"


@pytest.mark.parametrize(
    "method",
    [
        commands.Basic.Deliver("c", 1, False, "x", "k"),
        commands.Basic.GetOk(1, False, "x", "k", 0),
    ],
)
def test_delivery_on_a_publisher_channel_ends_the_connection(method: base.Frame) -> None:
    taken, _ = reader()
    with pytest.raises(ProtocolViolation):
        taken.feed(b"".join(frames.marshal(frame, CHANNEL) for frame in returned(method, [b"body"])))


@pytest.mark.parametrize("size", [0, 8])
def test_short_confirm_ends_the_connection(size: int) -> None:
    taken, _ = reader()
    whole = frames.marshal(commands.Basic.Ack(1), CHANNEL)
    payload = whole[7 : 11 + size]
    with pytest.raises(ProtocolViolation):
        taken.feed(whole[:3] + len(payload).to_bytes(4) + payload + b"\xce")


def test_block_is_seen_and_passed_on() -> None:
    taken, _ = reader()
    blocked = frames.marshal(commands.Connection.Blocked("low on memory"), 0)
    unblocked = frames.marshal(commands.Connection.Unblocked(), 0)
    assert taken.feed(blocked) == blocked
    assert taken.blocked_reason == "low on memory"
    assert taken.feed(unblocked) == unblocked
    assert taken.blocked_reason is None


@given(
    exchange=names,
    routing_key=st.text(max_size=60),
    content=st.binary(max_size=300),
    frame_max=st.integers(FRAME_OVERHEAD + 1, 400),
    mandatory=st.booleans(),
)
def test_written_publish_is_what_pamqp_reads(
    exchange: str, routing_key: str, content: bytes, frame_max: int, mandatory: bool
) -> None:
    properties = PROPERTIES.marshal()
    written = encode_publish(CHANNEL, exchange.encode(), routing_key.encode(), mandatory) + b"".join(
        content_pieces(CHANNEL, properties, content, frame_max)
    )
    read: list[frames.FrameTypes] = []
    while written:
        used, number, frame = frames.unmarshal(written)
        assert number == CHANNEL
        assert not isinstance(frame, body.ContentBody) or used <= frame_max
        read.append(frame)
        written = written[used:]
    publish, head, *parts = read
    assert isinstance(publish, commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == (exchange, routing_key, mandatory)
    assert isinstance(head, header.ContentHeader)
    assert head.body_size == len(content)
    assert head.properties.marshal() == properties
    assert b"".join(part.value for part in parts if isinstance(part, body.ContentBody)) == content


def test_largest_properties_fill_a_frame_exactly() -> None:
    properties = b"\x00" * max_properties_bytes(4096)
    header_frame = b"".join(content_pieces(CHANNEL, properties, b"", 4096))
    assert len(header_frame) == 4096
