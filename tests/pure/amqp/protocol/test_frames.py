"""The hot frames agree with pamqp, wherever the byte stream is cut, and whatever is no AMQP ends in a typed error."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base, body, commands, header, heartbeat
from pamqp import frame as frames

from mxworker.amqp.protocol.frames import (
    DEFAULT_FRAME_MAX,
    encode_ack,
    encode_get,
    encode_give_back,
    encode_reject,
)
from mxworker.amqp.protocol.reader import FrameReader, RawDelivery
from mxworker.api.delivery import Delivery
from mxworker.errors import ChannelLost, ConnectionLost, ProtocolViolation
from tests.harness.nowhere import Nowhere
from tests.rabbit.raw import HOSTILE

CAP = 40
REFUSED_BYTES = 31
OURS = (1, 7)
THEIRS = 3
CANARY = b"S3cr3t body, to be seen by nobody"

START = commands.Connection.Start(server_properties={"product": "a broker"})
PROPERTIES = commands.Basic.Properties(message_id="an id", headers={"a": 1}, delivery_mode=2)


class Calls:
    """A sink that notes what it is told, in the same terms as `told_by_pamqp`."""

    def __init__(self, number: int, calls: list[tuple[object, ...]]) -> None:
        self._number = number
        self._calls = calls

    def on_deliveries(self, deliveries: list[RawDelivery]) -> None:
        for tag, redelivered, route, raw, whole in deliveries:
            delivery = Delivery(whole, raw, route, redelivered, tag, Nowhere())
            self._note("deliver", tag, redelivered, delivery.exchange, delivery.routing_key, raw, whole)

    def room_bytes(self) -> int:
        return REFUSED_BYTES - 1

    def takes(self, size_bytes: int) -> bool:
        return size_bytes != REFUSED_BYTES

    def on_too_large(self, tag: int, size_bytes: int, properties: bytes) -> None:
        self._note("too large", tag, size_bytes)

    def on_unread(self, tag: int, size_bytes: int) -> None:
        self._note("unread", tag, size_bytes)

    def on_get(self, tag: int | None) -> None:
        self._note("get", tag)

    def on_cancel(self) -> None:
        self._note("cancel")

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        self._note("end", type(error), error.code if isinstance(error, ChannelLost) else None)

    def _note(self, *call: object) -> None:
        self._calls.append((self._number, *call))


def reader_with_channels(numbers: Sequence[int] = OURS, cap: int = CAP) -> tuple[FrameReader, list[tuple[object, ...]]]:
    """Return a reader with `numbers` registered, and the calls their sinks will get, in one list."""
    reader = FrameReader(cap)
    calls: list[tuple[object, ...]] = []
    for number in numbers:
        reader.register(number, Calls(number, calls))
    return reader, calls


def started(numbers: Sequence[int] = OURS, cap: int = CAP) -> FrameReader:
    """Return a reader that has seen connection.start."""
    reader, _ = reader_with_channels(numbers, cap)
    reader.feed(frames.marshal(START, 0))
    return reader


def told_by_pamqp(stream: bytes, cap: int = CAP) -> tuple[list[tuple[object, ...]], bytes]:
    """Return the calls and the bytes passed on that are right for `stream`, decoded by pamqp frame by frame."""
    registered = set(OURS)
    contents: dict[int, list[frames.FrameTypes]] = {}
    calls: list[tuple[object, ...]] = []
    passed = b""
    while stream:
        used, number, frame = frames.unmarshal(stream)
        raw, stream = stream[:used], stream[used:]
        if number not in registered or isinstance(frame, heartbeat.Heartbeat):
            passed += raw
            continue
        match frame:
            case commands.Basic.Deliver() | commands.Basic.GetOk():
                contents[number] = [frame]
            case header.ContentHeader() | body.ContentBody():
                contents[number].append(frame)
            case commands.Basic.GetEmpty():
                calls.append((number, "get", None))
            case _:
                passed += raw
                if isinstance(frame, commands.Basic.Cancel):
                    calls.append((number, "cancel"))
                if isinstance(frame, commands.Channel.Close | commands.Channel.CloseOk):
                    registered.discard(number)
                    code = frame.reply_code if isinstance(frame, commands.Channel.Close) else None
                    calls.append((number, "end", ChannelLost, code))
        calls += _told_when_complete(number, contents, cap)
    return calls, passed


def _told_when_complete(
    number: int, contents: dict[int, list[frames.FrameTypes]], cap: int
) -> Iterator[tuple[object, ...]]:
    match contents.get(number):
        case [method, header.ContentHeader() as content, *bodies]:
            whole = b"".join(part.value for part in bodies if isinstance(part, body.ContentBody))
            if len(whole) < content.body_size:
                return
            del contents[number]
            assert isinstance(content.properties, commands.Basic.Properties)
            match method:
                case commands.Basic.GetOk():
                    yield number, "get", method.delivery_tag
                case commands.Basic.Deliver() if len(whole) > cap:
                    yield number, "too large", method.delivery_tag, len(whole)
                case commands.Basic.Deliver() if len(whole) == REFUSED_BYTES:
                    yield number, "unread", method.delivery_tag, len(whole)
                case commands.Basic.Deliver():
                    route = (method.redelivered, method.exchange, method.routing_key)
                    yield number, "deliver", method.delivery_tag, *route, content.properties.marshal(), whole


# ---- the byte streams

names = st.text(max_size=8)
plain_names = st.text("aZ9-_.:@#,/+ ", max_size=8)  # the only ones pamqp takes for exchanges and queues
tags = st.integers(1, 2**63 - 1)  # pamqp takes no larger ones
properties = st.builds(
    commands.Basic.Properties,
    content_type=st.none() | names,
    headers=st.none() | st.dictionaries(st.text(min_size=1, max_size=5), st.booleans() | names, max_size=3),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    message_id=st.none() | names,
)
bodies = st.lists(st.binary(min_size=1, max_size=30), max_size=4)
contents = st.tuples(
    st.builds(commands.Basic.Deliver, names, tags, st.booleans(), plain_names, names)
    | st.builds(commands.Basic.GetOk, tags, st.booleans(), plain_names, names, st.integers(0, 99)),
    properties,
    bodies,
).map(lambda parts: content_frames(*parts))
single_methods: st.SearchStrategy[list[frames.FrameTypes]] = st.sampled_from(
    [
        [commands.Basic.GetEmpty()],
        [commands.Basic.Cancel("a consumer")],
        [commands.Basic.QosOk()],
        [commands.Basic.ConsumeOk("a consumer")],
        [commands.Queue.DeclareOk("q", 1, 2)],
    ]
)
ends: st.SearchStrategy[list[frames.FrameTypes]] = st.sampled_from(
    [[commands.Channel.Close(404, "NOT_FOUND", 0, 0)], [commands.Channel.CloseOk()]]
)
of_the_connection: st.SearchStrategy[list[frames.FrameTypes]] = st.sampled_from(
    [[heartbeat.Heartbeat()], [commands.Connection.Blocked("memory")], [commands.Connection.Unblocked()]]
)


def content_frames(
    method: base.Frame, with_properties: commands.Basic.Properties = PROPERTIES, parts: Sequence[bytes] = (b"body",)
) -> list[frames.FrameTypes]:
    """Return method, header and bodies of a message."""
    size = sum(len(part) for part in parts)
    return [method, header.ContentHeader(0, size, with_properties), *(body.ContentBody(part) for part in parts)]


def deliver(tag: int = 1, parts: Sequence[bytes] = (b"body",), channel: int = 1) -> bytes:
    """Return a whole delivery."""
    return marshalled(content_frames(commands.Basic.Deliver("c", tag, False, "x", "k"), PROPERTIES, parts), channel)


def marshalled(parts: Sequence[frames.FrameTypes], channel: int) -> bytes:
    return b"".join(frames.marshal(part, channel) for part in parts)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A broker's bytes from connection.start on: each channel's frames in order, the channels interleaved by frame.

    A channel may end, and its number be used again; it is then no longer registered.
    """
    queues = {0: [frame for unit in draw(st.lists(of_the_connection, max_size=4)) for frame in unit]}
    for number in (*OURS, THEIRS):
        units = draw(st.lists(contents | single_methods, max_size=5))
        if draw(st.booleans()):
            units += [draw(ends), *draw(st.lists(contents, max_size=2))]
        queues[number] = [frame for unit in units for frame in unit]
    turns = [number for number, queue in queues.items() for _ in queue]
    ordered = [(number, queues[number].pop(0)) for number in draw(st.permutations(turns))]
    return frames.marshal(START, 0) + b"".join(frames.marshal(frame, number) for number, frame in ordered)


def feed_cut(reader: FrameReader, stream: bytes, cuts: Sequence[int]) -> bytes:
    """Feed `stream` in pieces that end at `cuts`; return what was passed on."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
    return b"".join(reader.feed(stream[begin:end]) for begin, end in pairwise(edges))


SAMPLE = (
    frames.marshal(START, 0)
    + frames.marshal(commands.Connection.Tune(2047, 131_072, 60), 0)
    + deliver(1, (b"first", b"and second part"))
    + frames.marshal(heartbeat.Heartbeat(), 0)
    + deliver(2, ())
    + deliver(3, (b"x" * CAP, b"one too many"))
    + deliver(9, channel=THEIRS)
    + marshalled(content_frames(commands.Basic.GetOk(4, True, "", "q", 0)), 7)
    + marshalled([commands.Basic.GetEmpty(), commands.Basic.Cancel("c"), commands.Basic.QosOk()], 7)
    + frames.marshal(commands.Channel.Close(406, "PRECONDITION_FAILED - so", 60, 80), 1)
    + deliver(1)  # the number in use again, by a channel that is not registered
    + frames.marshal(commands.Channel.CloseOk(), 7)
)


@given(stream=streams(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_stream_cut_anywhere_means_what_pamqp_says(stream: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(1, len(stream)), max_size=20))
    reader, calls = reader_with_channels()
    passed = feed_cut(reader, stream, cuts)
    assert (calls, passed) == told_by_pamqp(stream)


def test_sample_is_the_same_at_every_split_point() -> None:
    expected = told_by_pamqp(SAMPLE)
    assert len(expected[0]) == 8
    for cut in range(1, len(SAMPLE)):
        reader, calls = reader_with_channels()
        assert (feed_cut(reader, SAMPLE, [cut]), calls) == (expected[1], expected[0]), f"cut at {cut}"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 64])
def test_sample_is_the_same_in_small_pieces(step: int) -> None:
    reader, calls = reader_with_channels()
    passed = feed_cut(reader, SAMPLE, range(step, len(SAMPLE), step))
    assert (calls, passed) == told_by_pamqp(SAMPLE)


@given(stream=streams(), data=st.data())
@settings(deadline=None)
def test_what_is_passed_on_is_always_whole_frames(stream: bytes, data: st.DataObject) -> None:
    reader, _ = reader_with_channels()
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, len(stream)), max_size=20))), len(stream)]
    for begin, end in pairwise(edges):
        passed = reader.feed(stream[begin:end])
        while passed:
            used, _, _ = frames.unmarshal(passed)
            passed = passed[used:]


# ---- single facts


def test_body_in_many_frames_is_joined() -> None:
    reader, calls = reader_with_channels(cap=10**6)
    parts = [bytes([number]) * 1000 for number in range(100)]
    reader.feed(frames.marshal(START, 0) + deliver(5, parts))
    assert [call[-1] for call in calls] == [b"".join(parts)]


def test_deliveries_in_one_read_need_not_be_alike() -> None:
    one_after_another = [
        commands.Basic.Deliver(consumer, 0, redelivered, "x", key)
        for redelivered in (False, True)
        for consumer, key in (
            ("c", "k"),
            ("c", "l"),
            ("d", "l"),
            ("c", "longer"),
            ("longer", "c"),
            ("c", "k"),
            ("c", "k"),
        )
    ]
    stream = frames.marshal(START, 0)
    for tag, method in enumerate(one_after_another, 1):
        method.delivery_tag = tag
        parts = {7: (b"x" * REFUSED_BYTES,), 9: (b"in ", b"two"), 11: (), 13: (b"x" * (CAP + 1),)}.get(tag, (b"body",))
        longer = commands.Basic.Properties(message_id="another id", delivery_mode=2)
        stream += marshalled(
            content_frames(method, longer if tag in (3, 10) else PROPERTIES, parts), OURS[tag % 8 == 0]
        )
    calls, passed = told_by_pamqp(stream)
    reader, told = reader_with_channels()
    assert (reader.feed(stream), told) == (passed, calls)


def test_delivery_like_that_of_the_last_read_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, calls = reader_with_channels()
    reader.feed(frames.marshal(START, 0) + deliver(1))
    monkeypatch.setattr(FrameReader, "_shape_of", None)
    reader.feed(deliver(2) + deliver(3))
    assert [call[2] for call in calls] == [1, 2, 3]


@pytest.mark.parametrize("damaged", range(3), ids=["method", "header", "body"])
def test_wrong_end_octet_among_deliveries_in_one_read_ends_the_connection(damaged: int) -> None:
    parts = content_frames(commands.Basic.Deliver("c", 2, False, "x", "k"))
    second = [marshalled([part], 1) for part in parts]
    second[damaged] = second[damaged][:-1] + b"\x00"
    reader, calls = reader_with_channels()
    with pytest.raises(ProtocolViolation):
        reader.feed(frames.marshal(START, 0) + deliver(1) + b"".join(second) + deliver(3))
    assert [call[1:3] for call in calls] == [("deliver", 1)]


def test_body_at_the_cap_is_kept_and_one_byte_more_is_not() -> None:
    reader, calls = reader_with_channels()
    reader.feed(frames.marshal(START, 0) + deliver(1, (b"x" * CAP,)) + deliver(2, (b"x" * (CAP + 1),)))
    assert [call[1:3] for call in calls] == [("deliver", 1), ("too large", 2)]
    assert calls[1] == (1, "too large", 2, CAP + 1)


def test_body_that_the_sink_does_not_take_is_not_kept() -> None:
    reader, calls = reader_with_channels()
    refused = b"x" * REFUSED_BYTES
    reader.feed(frames.marshal(START, 0) + deliver(1, (refused,)) + deliver(2, (refused[:5], refused[5:])))
    reader.feed(deliver(3, (b"taken",)))
    assert [call[1:3] for call in calls] == [("unread", 1), ("unread", 2), ("deliver", 3)]
    assert calls[0] == (1, "unread", 1, REFUSED_BYTES)


@pytest.mark.parametrize("chunk_bytes", [100_000, 1_000])
def test_nothing_of_a_body_above_the_cap_is_kept(chunk_bytes: int) -> None:
    reader, calls = reader_with_channels(cap=1000)
    chunk = b"x" * chunk_bytes
    count = 20_000_000 // chunk_bytes
    reader.feed(frames.marshal(START, 0))
    reader.feed(frames.marshal(commands.Basic.Deliver("c", 1, False, "", "q"), 1))
    reader.feed(frames.marshal(header.ContentHeader(0, count * chunk_bytes, PROPERTIES), 1))
    frame = frames.marshal(body.ContentBody(chunk), 1)
    tracemalloc.start()
    try:
        for _ in range(count):
            reader.feed(frame)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert calls == [(1, "too large", 1, count * chunk_bytes)]
    assert peak_bytes < 3 * chunk_bytes + 20_000


def test_delivery_after_one_above_the_cap_is_whole() -> None:
    reader, calls = reader_with_channels()
    reader.feed(frames.marshal(START, 0) + deliver(1, (b"x" * CAP, b"y")) + deliver(2, (b"good ", b"body")))
    assert calls[1][-1] == b"good body"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_properties_pass_as_bytes(kind: str) -> None:
    reader, calls = reader_with_channels()
    raw = HOSTILE[kind]
    content = struct.pack(">HHQ", 60, 0, 0) + raw
    reader.feed(frames.marshal(START, 0) + frames.marshal(commands.Basic.Deliver("c", 1, False, "", "q"), 1))
    if len(content) > 100_000:
        reader.frame_max = 10 * DEFAULT_FRAME_MAX
    reader.feed(struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce")
    assert calls == [(1, "deliver", 1, False, "", "q", raw, b"")]


def test_heartbeat_between_the_frames_of_a_delivery_is_passed_on() -> None:
    beat = frames.marshal(heartbeat.Heartbeat(), 0)
    parts = [frames.marshal(part, 1) for part in content_frames(commands.Basic.Deliver("c", 1, False, "", "q"))]
    reader, calls = reader_with_channels()
    reader.feed(frames.marshal(START, 0))
    assert reader.feed(beat.join(parts)) == beat * 2
    assert len(calls) == 1


def test_heartbeat_is_never_taken_for_a_body() -> None:
    reader, calls = reader_with_channels()
    reader.feed(frames.marshal(START, 0) + DELIVER_METHOD + CONTENT_HEADER)
    odd = raw_frame(8, b"0123456789")
    assert reader.feed(odd) == odd
    assert calls == []


def test_end_of_the_connection_reaches_each_channel_once() -> None:
    reader, calls = reader_with_channels()
    reader.end(ConnectionLost("gone"))
    reader.end(ConnectionLost("gone"))
    assert calls == [(1, "end", ConnectionLost, None), (7, "end", ConnectionLost, None)]


def test_closed_channel_is_free_when_its_sink_hears_of_it() -> None:
    reader, calls = reader_with_channels((1,))

    class Successor(Calls):
        def on_end(self, error: ChannelLost | ConnectionLost) -> None:
            reader.register(1, Calls(1, calls))

    reader.register(1, Successor(1, calls))
    reader.feed(frames.marshal(START, 0) + frames.marshal(commands.Channel.CloseOk(), 1) + deliver(5))
    assert [call[1:3] for call in calls] == [("deliver", 5)]


def test_channel_close_tells_code_and_text() -> None:
    errors: list[ChannelLost | ConnectionLost] = []
    reader, calls = reader_with_channels(())

    class Ends(Calls):
        def on_end(self, error: ChannelLost | ConnectionLost) -> None:
            errors.append(error)

    reader.register(1, Ends(1, calls))
    close = commands.Channel.Close(404, "NOT_FOUND - no queue 'ü'", 60, 20)
    assert reader.feed(frames.marshal(START, 0) + frames.marshal(close, 1)).endswith(frames.marshal(close, 1))
    assert str(errors[0]) == "the broker closed the channel: 404 NOT_FOUND - no queue 'ü'"


def test_connection_close_is_remembered_and_passed_on() -> None:
    reader = started()
    close = frames.marshal(commands.Connection.Close(320, "CONNECTION_FORCED - bye", 0, 0), 0)
    assert reader.feed(close) == close
    assert reader.close_reason == (320, "CONNECTION_FORCED - bye")


# ---- tune


def tune(frame_max: int) -> bytes:
    return frames.marshal(commands.Connection.Tune(2047, frame_max, 60), 0)


def test_frame_max_without_limit_is_answered_by_our_default() -> None:
    reader = started()
    assert reader.feed(tune(0)) == tune(DEFAULT_FRAME_MAX)
    assert reader.frame_max == DEFAULT_FRAME_MAX


def test_offered_frame_max_is_taken() -> None:
    reader, calls = reader_with_channels((1,), cap=10**6)
    reader.feed(frames.marshal(START, 0))
    assert reader.feed(tune(4096)) == tune(4096)
    reader.feed(deliver(1, (b"x" * (4096 - 8),)))
    assert len(calls) == 1
    with pytest.raises(ProtocolViolation):
        reader.feed(deliver(2, (b"x" * (4096 - 7),)))


# ---- garbage


def raw_frame(kind: int, payload: bytes, channel: int = 1, end: bytes = b"\xce", size: int | None = None) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload) if size is None else size) + payload + end


DELIVER_METHOD = frames.marshal(commands.Basic.Deliver("c", 1, False, "x", "k"), 1)
CONTENT_HEADER = frames.marshal(header.ContentHeader(0, 10, PROPERTIES), 1)


def body_frame(payload: bytes) -> bytes:
    return raw_frame(3, payload)


GARBAGE = {
    "unknown frame type": raw_frame(4, CANARY),
    "protocol header": b"AMQP\x00\x00\x09\x01",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n",
    "zeros": bytes(16),
    "wrong end octet": raw_frame(1, CANARY, end=b"\xcd"),
    "wrong end octet of a body": DELIVER_METHOD + CONTENT_HEADER + raw_frame(3, CANARY[:10], end=b"\x00"),
    "frame above frame_max": raw_frame(3, CANARY, size=DEFAULT_FRAME_MAX - 7),
    "size of 4 GiB": raw_frame(3, CANARY, size=2**32 - 1),
    "heartbeat of 4 GiB": raw_frame(8, CANARY, channel=0, size=2**32 - 1),
    "method of three bytes": raw_frame(1, b"\x00\x3c\x00"),
    "empty method": raw_frame(1, b""),
    "deliver without arguments": raw_frame(1, struct.pack(">HH", 60, 60)),
    "deliver cut in its tag": raw_frame(1, struct.pack(">HHB", 60, 60, 3) + b"tag\x00\x00\x00"),
    "deliver with a consumer tag past its end": raw_frame(1, struct.pack(">HHB", 60, 60, 255) + CANARY),
    "get-ok without arguments": raw_frame(1, struct.pack(">HH", 60, 71)),
    "header without a method": CONTENT_HEADER,
    "short header": DELIVER_METHOD + raw_frame(2, struct.pack(">HHQ", 60, 0, 10)),
    "two headers": DELIVER_METHOD + CONTENT_HEADER + CONTENT_HEADER,
    "deliver inside a content": DELIVER_METHOD + CONTENT_HEADER + DELIVER_METHOD,
    "deliver after deliver": DELIVER_METHOD + DELIVER_METHOD,
    "whole delivery after deliver": DELIVER_METHOD + deliver(1, (CANARY,)),
    "header of another channel": DELIVER_METHOD
    + frames.marshal(header.ContentHeader(0, 10, PROPERTIES), 2)
    + body_frame(b"0123456789"),
    "body without a method": body_frame(CANARY),
    "body without a header": DELIVER_METHOD + body_frame(CANARY),
    "body after a whole body": deliver(1, (b"0123456789",)) + body_frame(CANARY),
    "body longer than announced": DELIVER_METHOD + CONTENT_HEADER + body_frame(b"01234") + body_frame(CANARY),
    "body as long as announced, after a part": DELIVER_METHOD
    + CONTENT_HEADER
    + body_frame(b"0")
    + body_frame(b"1" * 10),
    "empty body frame": DELIVER_METHOD + CONTENT_HEADER + body_frame(b""),
    "body of an empty message": deliver(1, ()) + body_frame(b""),
    "short tune": raw_frame(1, struct.pack(">HHH", 10, 30, 2047), channel=0),
    "tune below the minimum": frames.marshal(commands.Connection.Tune(2047, 4095, 60), 0),
}


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_in_a_violation_that_shows_no_body(what: str, step: int) -> None:
    reader = started()
    with pytest.raises(ProtocolViolation) as caught:
        feed_cut(reader, GARBAGE[what], range(step, len(GARBAGE[what]), step))
    text = str(caught.value)
    shown = CANARY[:4]
    assert shown.decode() not in text
    assert shown.hex(" ") not in text


@pytest.mark.parametrize(
    "answer", [b"AMQP\x00\x00\x09\x01", b"AMQP", b"HTTP/1.1 400", b"\x00", b"-ERR", b"\x15\x03\x01"]
)
def test_peer_that_does_not_speak_amqp_is_named_at_its_first_byte(answer: bytes) -> None:
    reader, _ = reader_with_channels(())
    with pytest.raises(ProtocolViolation, match="does not speak AMQP 0-9-1"):
        reader.feed(answer[:1])
    reader, _ = reader_with_channels(())
    with pytest.raises(ProtocolViolation) as caught:
        reader.feed(answer)
    assert repr(answer) in str(caught.value)


@pytest.mark.parametrize("channel", [0, 1, THEIRS])
def test_size_of_4_gib_is_refused_with_the_last_byte_of_the_head(channel: int) -> None:
    head = struct.pack(">BHI", 3, channel, 2**32 - 1) + b"\x00"
    for cut in range(1, len(head)):
        reader = started()
        reader.feed(head[:cut])
        with pytest.raises(ProtocolViolation):
            reader.feed(head[cut:])


@given(kind=st.sampled_from([1, 2, 3, 8]), size=st.integers(0, 2**32 - 1), channel=st.sampled_from([0, 1, THEIRS]))
@settings(deadline=None)
def test_at_most_one_frame_is_waited_for(kind: int, size: int, channel: int) -> None:
    """Zeros follow a head, and no end octet: no later than frame_max bytes after it the stream is given up."""
    reader = started()
    head = struct.pack(">BHI", kind, channel, size)
    with pytest.raises(ProtocolViolation):
        feed_cut(reader, head + bytes(DEFAULT_FRAME_MAX), range(4096, DEFAULT_FRAME_MAX, 4096))


@given(pieces=st.lists(st.binary(max_size=60), max_size=20), after_start=st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_passed_on_or_refused_and_never_raise_anything_else(
    pieces: list[bytes], after_start: bool
) -> None:
    reader = started(()) if after_start else FrameReader(CAP)
    passed = b""
    try:
        for piece in pieces:
            passed += reader.feed(piece)
    except ProtocolViolation:
        pass
    assert b"".join(pieces).startswith(passed)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_stream_never_raises_anything_else(data: st.DataObject) -> None:
    stream = bytearray(SAMPLE)
    for at in data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=1, max_size=5)):
        stream[at] = data.draw(st.integers(0, 255))
    reader, _ = reader_with_channels()
    with suppress(ProtocolViolation):
        feed_cut(reader, bytes(stream), data.draw(st.lists(st.integers(1, len(stream)), max_size=5)))


# ---- encoders

channels = st.integers(1, 65535)


@given(channel=channels, tag=tags, bit=st.booleans())
def test_settlements_are_encoded_as_pamqp_does(channel: int, tag: int, bit: bool) -> None:
    assert encode_ack(channel, tag, multiple=bit) == frames.marshal(commands.Basic.Ack(tag, bit), channel)
    assert encode_reject(channel, tag, requeue=bit) == frames.marshal(commands.Basic.Reject(tag, bit), channel)
    nack = commands.Basic.Nack(tag, multiple=False, requeue=True)
    assert encode_give_back(channel, tag) == frames.marshal(nack, channel)


@given(channel=channels, queue=plain_names)
def test_get_is_encoded_as_pamqp_does(channel: int, queue: str) -> None:
    assert encode_get(channel, queue) == frames.marshal(commands.Basic.Get(queue=queue, no_ack=False), channel)
