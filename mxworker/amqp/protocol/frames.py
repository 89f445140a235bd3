"""The AMQP 0-9-1 frames of the hot path: their numbers, and the encoding of settlements and publishes.

Pure. `reader` decodes inbound bytes; this module has the constants of both directions and the frames that we send. The
AMQP library encodes and decodes all other frames.

A frame (AMQP 0-9-1, 4.2.3) is a type octet, a channel short, a size long, `size` octets of payload, and the end octet
0xCE. A content is a method frame, a content header frame, and as many body frames as its body size needs.
"""

from __future__ import annotations

import struct

FRAME_METHOD = 1
FRAME_HEADER = 2
FRAME_BODY = 3
FRAME_HEARTBEAT = 8
FRAME_END = 0xCE
FRAME_OVERHEAD = 8

DEFAULT_FRAME_MAX = 131_072  # RabbitMQ's default; 0, "no limit", is read as this
MIN_FRAME_MAX = 4_096  # AMQP 0-9-1, 4.2.3: frame-min-size

CONNECTION_START = 10 << 16 | 10
CONNECTION_TUNE = 10 << 16 | 30
CONNECTION_CLOSE = 10 << 16 | 50
CONNECTION_BLOCKED = 10 << 16 | 60
CONNECTION_UNBLOCKED = 10 << 16 | 61
CHANNEL_OPEN = 20 << 16 | 10
CHANNEL_CLOSE = 20 << 16 | 40
CHANNEL_CLOSE_OK = 20 << 16 | 41
BASIC_CANCEL = 60 << 16 | 30
BASIC_PUBLISH = 60 << 16 | 40
BASIC_RETURN = 60 << 16 | 50
BASIC_DELIVER = 60 << 16 | 60
BASIC_GET = 60 << 16 | 70
BASIC_GET_OK = 60 << 16 | 71
BASIC_GET_EMPTY = 60 << 16 | 72
BASIC_ACK = 60 << 16 | 80
BASIC_REJECT = 60 << 16 | 90
BASIC_NACK = 60 << 16 | 120

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

BASIC_CLASS = 60
END = bytes((FRAME_END,))

_settlement = struct.Struct(">BHIIQBB").pack
_content_header = struct.Struct(">BHIHHQ").pack
_body_head = struct.Struct(">BBHI").pack  # with the end octet of the previous frame
_frame_head = struct.Struct(">BHI").pack
_SETTLEMENT_SIZE = 13
_CONTENT_HEADER_BYTES = 12  # class, weight and body size, before the properties


def encode_ack(channel: int, tag: int, multiple: bool) -> bytes:
    """Return basic.ack; with `multiple` it settles every unsettled tag up to `tag`."""
    return _settlement(FRAME_METHOD, channel, _SETTLEMENT_SIZE, BASIC_ACK, tag, multiple, FRAME_END)


def encode_reject(channel: int, tag: int, requeue: bool) -> bytes:
    """Return basic.reject: the delivery failed, which a quorum queue counts as a delivery attempt."""
    return _settlement(FRAME_METHOD, channel, _SETTLEMENT_SIZE, BASIC_REJECT, tag, requeue, FRAME_END)


def encode_give_back(channel: int, tag: int) -> bytes:
    """Return basic.nack(requeue): the delivery was not processed. Quorum queues since 4.3 do not count an attempt."""
    requeue_bit = 2
    return _settlement(FRAME_METHOD, channel, _SETTLEMENT_SIZE, BASIC_NACK, tag, requeue_bit, FRAME_END)


def encode_get(channel: int, queue: str) -> bytes:
    """Return basic.get without no-ack: the message must be settled."""
    name = queue.encode("utf-8")
    payload = struct.pack(">IHB", BASIC_GET, 0, len(name)) + name + b"\x00"
    return struct.pack(">BHI", FRAME_METHOD, channel, len(payload)) + payload + END


def encode_publish(channel: int, exchange: bytes, routing_key: bytes, mandatory: bool) -> bytes:
    """Return the method frame of basic.publish; a content must follow. Both names have at most 255 bytes."""
    route = bytes((len(exchange),)) + exchange + bytes((len(routing_key),)) + routing_key
    payload = struct.pack(">IH", BASIC_PUBLISH, 0) + route + bytes((mandatory,))
    return struct.pack(">BHI", FRAME_METHOD, channel, len(payload)) + payload + END


def content_pieces(channel: int, properties: bytes, body: bytes, frame_max: int) -> tuple[bytes, ...]:
    """Return the content header frame and the body frames in pieces to join; `properties` must fit into one frame."""
    size = len(body)
    header = _content_header(FRAME_HEADER, channel, len(properties) + _CONTENT_HEADER_BYTES, BASIC_CLASS, 0, size)
    if 0 < size <= frame_max - FRAME_OVERHEAD:
        return header, properties, _body_head(FRAME_END, FRAME_BODY, channel, size), body, END
    pieces = [header, properties, END]
    for at in range(0, size, frame_max - FRAME_OVERHEAD):
        part = body[at : at + frame_max - FRAME_OVERHEAD]
        pieces += (_frame_head(FRAME_BODY, channel, len(part)), part, END)
    return tuple(pieces)


def max_properties_bytes(frame_max: int) -> int:
    """Return the most bytes of properties with which the content header frame fits into `frame_max`."""
    return frame_max - FRAME_OVERHEAD - _CONTENT_HEADER_BYTES
