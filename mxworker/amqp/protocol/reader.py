"""Cut the inbound bytes of a connection into frames, and take out deliveries, confirms and returns.

Sans-IO and pure: the reader gets bytes, calls the sinks of registered channels, and returns all other frames whole and
untouched for the AMQP library. It knows nothing about sockets, tasks or handlers.

Invariants:
- Only whole frames are diverted or returned, in the order in which they came.
- A frame that breaks the rules raises ProtocolViolation; after that the reader must not be fed again.
- Properties are never decoded here, so that a hostile property costs nothing.
- A body above the cap, or one that its sink does not take, is counted but never kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from mxworker.amqp.protocol.frames import (
    BASIC_ACK,
    BASIC_CANCEL,
    BASIC_DELIVER,
    BASIC_GET_EMPTY,
    BASIC_GET_OK,
    BASIC_NACK,
    BASIC_RETURN,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_START,
    CONNECTION_TUNE,
    CONNECTION_UNBLOCKED,
    DEFAULT_FRAME_MAX,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD,
    MIN_FRAME_MAX,
)
from mxworker.errors import ChannelLost, ConnectionLost, ProtocolViolation
from mxworker.system.printable import foreign

_FRAME_TYPES = frozenset({FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT})
_SHOWN_BYTES = 16

_frame_head = struct.Struct(">BHI").unpack_from
_method_id = struct.Struct(">I").unpack_from
_tag_and_bit = struct.Struct(">QB").unpack_from
_CONTENT_HEAD_BYTES = 19  # of a header frame: the frame head, class and weight, the body size
_SHORTEST_HEADER_BYTES = 14  # of its payload: what follows the frame head up to the body size, and the property flags
_end_and_head = struct.Struct(">BBHI").unpack_from  # the end octet of a frame, and the head of the next one
_DELIVER = BASIC_DELIVER.to_bytes(4, "big")
_body_size = struct.Struct(">Q").unpack_from
_short = struct.Struct(">H").unpack_from
_tune = struct.Struct(">HIH")


RawDelivery = tuple[int, bool, bytes, bytes, bytes]
"""Delivery tag, whether redelivered, route (exchange, routing key), properties (flags, values) as on the wire, body."""


class ConsumerSink(Protocol):
    """Gets the deliveries of a consuming channel. Its methods are called inside `feed`: return fast, never raise."""

    def room_bytes(self) -> int:
        """Return how many bytes of bodies, all together, may be kept before `takes` must be asked; 0 for none."""

    def takes(self, size_bytes: int) -> bool:
        """Tell whether to keep the body of this size that follows."""

    def on_deliveries(self, deliveries: list[RawDelivery]) -> None:
        """Handle deliveries that came in one read, in their order."""

    def on_too_large(self, tag: int, size_bytes: int, properties: bytes) -> None:
        """Handle a delivery whose body is above the cap and was not kept."""

    def on_unread(self, tag: int, size_bytes: int) -> None:
        """Handle a delivery whose body was not kept, because `takes` said so."""

    def on_get(self, tag: int | None) -> None:
        """Handle the answer to basic.get: the delivery tag of the message, or None for an empty queue."""

    def on_cancel(self) -> None:
        """Handle a server-sent basic.cancel (https://www.rabbitmq.com/docs/consumer-cancel)."""

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        """Handle the end of the channel or of its connection. The sink is already unregistered."""


class PublisherSink(Protocol):
    """Gets the confirms and returns of a channel in confirm mode, inside `feed`: return fast, never raise."""

    def on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:
        """Handle a publisher confirm: basic.ack or basic.nack of `tag`, or with `multiple` of all tags up to it."""

    def on_return(self, reply: tuple[int, str], properties: bytes) -> None:
        """Handle a returned message: `reply` is the reply code and text, `properties` are those of the publish."""

    def on_end(self, error: ChannelLost | ConnectionLost) -> None:
        """Handle the end of the channel or of its connection. The sink is already unregistered."""


@lru_cache(1024)  # the size of the route decides, which has two short strings
def _fields(between: int) -> Callable[[bytes, int], tuple[int, int, int]]:
    """Return what reads the delivery tag, the bits after it and, `between` bytes later, the body size."""
    return struct.Struct(f">QB{between}xQ").unpack_from


class _Shape:
    """The bytes that a delivery has in common with the next ones of its consumer, and where the others are.

    The common bytes are those of the method frame before the delivery tag, and those from the route to the body size.
    A number that ends in `_in` counts from the start of the delivery.
    """

    __slots__ = ("body_in", "fields", "head", "middle", "middle_in", "properties_in", "route", "tag_in")

    def __init__(self, data: bytes, at: int, tag_in: int, header_in: int, body_in: int) -> None:
        """Take the shape of the delivery at `at`, whose method and header frames are whole and right."""
        self.tag_in = tag_in
        self.middle_in = tag_in + 9
        self.properties_in = header_in + _CONTENT_HEAD_BYTES
        self.body_in = body_in
        self.head = data[at : at + tag_in]
        self.middle = data[at + self.middle_in : at + self.properties_in - 8]
        self.route = data[at + self.middle_in : at + header_in - 1]
        self.fields = _fields(len(self.middle))


class _Channel:
    """A registered channel, and the content that is arriving on it."""

    __slots__ = (
        "body_size",
        "consumer",
        "keeps_body",
        "method",
        "parts",
        "properties",
        "publisher",
        "received",
        "redelivered",
        "reply",
        "route",
        "shape",
        "tag",
    )

    def __init__(self, consumer: ConsumerSink | None, publisher: PublisherSink | None) -> None:
        self.consumer = consumer
        self.publisher = publisher
        self.method = 0
        self.tag = 0
        self.redelivered = False
        self.route = b""
        self.reply = 0, ""
        self.properties: bytes | None = None
        self.body_size = 0
        self.keeps_body = False
        self.received = 0
        self.parts: list[bytes] = []
        self.shape: _Shape | None = None

    def end(self, error: ChannelLost | ConnectionLost) -> None:
        """Tell the sink."""
        sink = self.consumer or self.publisher
        assert sink is not None
        sink.on_end(error)


class FrameReader:
    """Cuts inbound bytes into frames, and diverts those of registered channels.

    `frame_max` comes from connection.tune. When the broker offers "no limit", the tune frame that is passed on says our
    default instead, and the AMQP library agrees to that.
    """

    def __init__(self, body_cap_bytes: int) -> None:
        """Make one for each connection, before its first byte. Bodies above `body_cap_bytes` are not kept."""
        self.frame_max = DEFAULT_FRAME_MAX
        self.started = False
        self.close_reason: tuple[int, str] | None = None
        """The reply code and text of the broker's connection.close, None until it came."""
        self.blocked_reason: str | None = None
        """Why the broker blocks publishes now, or None (https://www.rabbitmq.com/docs/connection-blocked)."""
        self.body_cap_bytes = body_cap_bytes
        self._channels: dict[int, _Channel] = {}
        self._partial = bytearray()  # one incomplete frame; at most frame_max plus one read
        self._needed = 0

    def register(self, channel: int, sink: ConsumerSink) -> None:
        """Divert the deliveries of `channel` to `sink`, until channel.close or close-ok comes."""
        self._channels[channel] = _Channel(sink, None)

    def register_publisher(self, channel: int, sink: PublisherSink) -> None:
        """Divert the confirms and returns of `channel` to `sink`, until channel.close or close-ok comes."""
        self._channels[channel] = _Channel(None, sink)

    def end(self, error: ConnectionLost) -> None:
        """Unregister all channels and tell their sinks that the connection has ended."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.end(error)

    def feed(self, data: bytes) -> bytes:
        """Process the next bytes; return the whole frames for the AMQP library, joined."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return b""
            data = bytes(self._partial)
            self._partial.clear()
        return self._cut(data)

    def _cut(self, data: bytes) -> bytes:
        channels = self._channels
        passed: list[bytes] = []
        at = 0
        end = len(data)
        while end - at >= FRAME_OVERHEAD:
            kind, number, size = _frame_head(data, at)
            last = at + 7 + size
            if kind not in _FRAME_TYPES or size > self.frame_max - FRAME_OVERHEAD:
                raise self._violation("an impossible frame head", data, at)
            if last >= end:
                break
            if data[last] != FRAME_END:
                raise self._violation("a frame without its end octet", data, at)
            channel = channels.get(number)
            if channel is None or kind == FRAME_HEARTBEAT:
                passed.append(self._pass_on(number, data[at : last + 1]))
            elif kind == FRAME_METHOD:
                after = self._whole_deliveries(channel, number, data, at)
                if after > at:
                    at = after
                    continue
                if not self._divert_method(channel, number, data, at, last):
                    passed.append(data[at : last + 1])
            elif kind == FRAME_HEADER:
                self._divert_header(channel, data, at, last)
            else:
                self._divert_body(channel, data, at, last)
            at = last + 1
        if at < end:
            self._keep(data, at)
        return b"".join(passed)

    def _keep(self, data: bytes, at: int) -> None:
        """Keep an incomplete frame, and do not parse it again before all its bytes have come."""
        rest = len(data) - at
        if rest >= FRAME_OVERHEAD:
            self._needed = _frame_head(data, at)[2] + FRAME_OVERHEAD
        else:
            self._needed = FRAME_OVERHEAD
            if not self.started and data[at : at + 1] != b"\x01":
                raise self._violation("no connection.start", data, at)
        self._partial += data[at:]

    # ---- frames of the connection and of channels that are not registered

    def _pass_on(self, number: int, frame: bytes) -> bytes:
        """Inspect a frame for the AMQP library; return it, changed if necessary."""
        if number != 0 or frame[0] != FRAME_METHOD or len(frame) < FRAME_OVERHEAD + 4:
            return frame
        (method,) = _method_id(frame, 7)
        if method == CONNECTION_START:
            self.started = True
        elif method == CONNECTION_TUNE:
            return self._agree(frame)
        elif method == CONNECTION_CLOSE:
            self.close_reason = _reply(frame, 11, len(frame) - 1)
        elif method == CONNECTION_BLOCKED:
            self.blocked_reason = _short_text(frame, 11, len(frame) - 1)
        elif method == CONNECTION_UNBLOCKED:
            self.blocked_reason = None
        return frame

    def _agree(self, frame: bytes) -> bytes:
        if len(frame) < 11 + _tune.size + 1:
            raise self._violation("a short connection.tune", frame, 0)
        channel_max, frame_max, heartbeat = _tune.unpack_from(frame, 11)
        self.frame_max = frame_max or DEFAULT_FRAME_MAX
        if self.frame_max < MIN_FRAME_MAX:
            raise self._violation("a frame_max below the minimum", frame, 0)
        return frame[:11] + _tune.pack(channel_max, self.frame_max, heartbeat) + frame[11 + _tune.size :]

    # ---- frames of registered channels

    def _whole_deliveries(self, channel: _Channel, number: int, data: bytes, at: int) -> int:
        """Take each basic.deliver with a content of one header and one body frame; return the end of the last.

        Nearly all deliveries are like that, and those of one consumer differ in few bytes. So only the first one is
        parsed, and again when the route or a size changes. For anything else, faults included, and for a body that may
        have no room, this does nothing, and `_cut` goes on with the frame at the returned place.
        """
        consumer = channel.consumer
        if consumer is None or channel.method or data[at + 7 : at + 11] != _DELIVER:
            return at
        end = len(data)
        room = consumer.room_bytes()
        most_body = min(self.frame_max - FRAME_OVERHEAD, self.body_cap_bytes)
        found: list[RawDelivery] = []
        shape = channel.shape or self._shape_of(number, data, at)
        while shape is not None:
            channel.shape = shape
            head, middle, route, fields = shape.head, shape.middle, shape.route, shape.fields
            tag_in, middle_in = shape.tag_in, shape.middle_in
            properties_in, body_in = shape.properties_in, shape.body_in
            while data.startswith(head, at) and data.startswith(middle, at + middle_in):
                body_at = at + body_in
                if body_at > end:
                    break
                tag, bits, size = fields(data, at + tag_in)
                body_last = body_at + size
                room -= size
                if (
                    body_last >= end
                    or room < 0
                    or not 0 < size <= most_body
                    or data[body_last] != FRAME_END
                    or _end_and_head(data, body_at - 8) != (FRAME_END, FRAME_BODY, number, size)
                ):
                    break
                properties = data[at + properties_in : body_at - 8]
                found.append((tag, bits & 1 == 1, route, properties, data[body_at:body_last]))
                at = body_last + 1
            else:
                shape = self._shape_of(number, data, at) if at < end else None
                continue
            break
        if found:
            consumer.on_deliveries(found)
        return at

    def _shape_of(self, number: int, data: bytes, at: int) -> _Shape | None:
        """Return the shape of the delivery at `at`; None when there is none with a whole header frame."""
        end, most = len(data), self.frame_max - FRAME_OVERHEAD
        if end - at < FRAME_OVERHEAD + _CONTENT_HEAD_BYTES or data[at + 7 : at + 11] != _DELIVER:
            return None
        kind, method_number, size = _frame_head(data, at)
        tag_in, header_in = 12 + data[at + 11], 8 + size
        if (kind, method_number) != (FRAME_METHOD, number) or size > most or tag_in + 9 >= header_in:
            return None
        header_at = at + header_in
        if header_at + _CONTENT_HEAD_BYTES > end or data[header_at - 1] != FRAME_END:
            return None
        kind, header_number, size = _frame_head(data, header_at)
        if (kind, header_number) != (FRAME_HEADER, number) or not _SHORTEST_HEADER_BYTES <= size <= most:
            return None
        return _Shape(data, at, tag_in, header_in, header_in + 7 + size + 8)

    def _divert_method(self, channel: _Channel, number: int, data: bytes, at: int, last: int) -> bool:
        """Handle a method frame of a registered channel; return False when it must be passed on."""
        if last - at < 11:
            raise self._violation("a short method frame", data, at)
        (method,) = _method_id(data, at + 7)
        if channel.publisher is not None:
            if method in (BASIC_ACK, BASIC_NACK):
                if last - at < 20:
                    raise self._violation("a short confirm", data, at)
                tag, bits = _tag_and_bit(data, at + 11)
                channel.publisher.on_confirm(tag, bits & 1 == 1, method == BASIC_ACK)
                return True
            if method == BASIC_RETURN:
                self._begin_content(channel, method, data, at)
                channel.reply = _reply(data, at + 11, last)
                return True
        elif method in (BASIC_DELIVER, BASIC_GET_OK):
            self._begin_content(channel, method, data, at)
            tag_at = at + 11 if method == BASIC_GET_OK else at + 12 + data[at + 11]
            if tag_at + 9 > last:
                raise self._violation("a short basic.deliver", data, at)
            channel.tag, bits = _tag_and_bit(data, tag_at)
            channel.redelivered = bits & 1 == 1
            channel.route = data[tag_at + 9 : last]
            return True
        return self._divert_rare(channel, number, method, data, at, last)

    def _begin_content(self, channel: _Channel, method: int, data: bytes, at: int) -> None:
        if channel.method:
            raise self._violation("a method inside a content", data, at)
        channel.method = method

    def _divert_rare(self, channel: _Channel, number: int, method: int, data: bytes, at: int, last: int) -> bool:
        """Handle a rare method, such as the close of the channel; return False when it must be passed on."""
        if method == CHANNEL_CLOSE:
            # The library reuses the number at once, so the number must be free before the library gets the frame.
            del self._channels[number]
            code, text = _reply(data, at + 11, last)
            channel.end(ChannelLost(f"the broker closed the channel: {code} {text}", code))
        elif method == CHANNEL_CLOSE_OK:
            del self._channels[number]
            channel.end(ChannelLost("the channel was closed"))
        elif channel.consumer is not None and method == BASIC_GET_EMPTY:
            channel.consumer.on_get(None)
            return True
        elif channel.consumer is not None and method == BASIC_CANCEL:
            channel.consumer.on_cancel()
        return False

    def _divert_header(self, channel: _Channel, data: bytes, at: int, last: int) -> None:
        if not channel.method or channel.properties is not None or last - at < 21:
            raise self._violation("an unexpected content header", data, at)
        (channel.body_size,) = _body_size(data, at + 11)
        channel.properties = data[at + 19 : last]
        channel.received = 0
        consumer = channel.consumer
        channel.keeps_body = (
            channel.method == BASIC_DELIVER
            and channel.body_size <= self.body_cap_bytes
            and consumer is not None
            and consumer.takes(channel.body_size)
        )
        if channel.body_size == 0:
            self._complete(channel, b"")

    def _divert_body(self, channel: _Channel, data: bytes, at: int, last: int) -> None:
        if channel.properties is None:
            raise self._violation("an unexpected body frame", data, at)
        size = last - at - 7
        if size == channel.body_size and not channel.received:
            self._complete(channel, data[at + 7 : last] if channel.keeps_body else b"")
            return
        channel.received += size
        if not size or channel.received > channel.body_size:
            raise self._violation("a body frame of an impossible size", data, at)
        if channel.keeps_body:
            channel.parts.append(data[at + 7 : last])
        if channel.received == channel.body_size:
            body = b"".join(channel.parts)
            channel.parts = []
            self._complete(channel, body)

    def _complete(self, channel: _Channel, body: bytes) -> None:
        method = channel.method
        properties = channel.properties
        assert properties is not None
        channel.method = 0
        channel.properties = None
        if channel.publisher is not None:
            channel.publisher.on_return(channel.reply, properties)
            return
        assert channel.consumer is not None
        if method == BASIC_GET_OK:
            channel.consumer.on_get(channel.tag)
        elif channel.keeps_body:
            channel.consumer.on_deliveries([(channel.tag, channel.redelivered, channel.route, properties, body)])
        elif channel.body_size > self.body_cap_bytes:
            channel.consumer.on_too_large(channel.tag, channel.body_size, properties)
        else:
            channel.consumer.on_unread(channel.tag, channel.body_size)

    def _violation(self, what: str, data: bytes, at: int) -> ProtocolViolation:
        if not self.started:
            return ProtocolViolation(f"the peer does not speak AMQP 0-9-1: it answered {data[:_SHOWN_BYTES]!r}")
        head = data[at : at + 7]  # never the payload, which may be part of a message
        return ProtocolViolation(f"the peer sent {what}; frame head {head.hex(' ')}")


def _reply(data: bytes, at: int, last: int) -> tuple[int, str]:
    """Read the reply code and text of a close method, as far as the frame has them."""
    if last - at < 3:
        return 0, ""
    (code,) = _short(data, at)
    return code, _short_text(data, at + 2, last)


def _short_text(data: bytes, at: int, last: int) -> str:
    """Read a short string for people, as far as the frame has it, and make it printable."""
    size = data[at] if at < last else 0
    return foreign(data[at + 1 : min(at + 1 + size, last)].decode("utf-8", "backslashreplace"))
