"""The frames of AMQP 0-9-1: cutting bytes into them, and the bytes of the few that carry messages.

Pure. pamqp encodes and decodes the other methods. The methods here are those of the hot path, and those in which pamqp
refuses names that RabbitMQ takes. Names are text; bytes that are not UTF-8 survive as surrogates (PEP 383).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mxworker.devbroker.faults import ConnectionFault

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
OVERHEAD = 8
MIN_FRAME_MAX, UNLIMITED = 4096, 2**32
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

BASIC = 60
PUBLISH = 60 << 16 | 40
ACK = 60 << 16 | 80
REJECT = 60 << 16 | 90
NACK = 60 << 16 | 120

_END = 0xCE
_SHOWN = 16
_HEADER_BYTES = 12
_head = struct.Struct(">BHI")
_read_head = _head.unpack_from
_pack_head = _head.pack
_tagged_method = struct.Struct(">BHIIQB")
_pack_deliver_end = struct.Struct(">QB").pack
_pack_get_ok = struct.Struct(">IQB").pack
_pack_content = struct.Struct(">BHIHHQ").pack
_return_head = struct.Struct(">IH")
_number = struct.Struct(">I")


class FrameReader:
    """Cuts what a client sends into frames of at most `frame_max` bytes. It keeps less than one frame."""

    def __init__(self) -> None:
        self.frame_max = MIN_FRAME_MAX
        self.fault: ConnectionFault | None = None
        """Why the bytes after the frames returned so far cannot be read; then the reader takes no more."""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, channel and payload of each frame that is complete now.

        `frame_max` may change between two frames. You must take all frames, unless you feed nothing more.
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 7 and self.fault is None:
            kind, channel, size = _read_head(data, at)
            if size > self.frame_max:
                self.fault = _frame_error(kind, b"", f"{{frame_too_large,{size},{self.frame_max - OVERHEAD}}}")
                break
            last = at + 7 + size
            if last >= end:
                break
            payload = data[at + 7 : last]
            if data[last] != _END:
                self.fault = _frame_error(kind, payload, f"{{invalid_frame_end_marker,{data[last]}}}")
                break
            yield kind, channel, payload
            at = last + 1
        self._rest = data[at:]


def is_header(payload: bytes) -> bool:
    """Tell whether the payload of a header frame can be read: it has a class, a weight, a size, and property flags."""
    return len(payload) >= _HEADER_BYTES + 2


def is_known(kind: int, payload: bytes) -> bool:
    """Tell whether a frame is one of methods and content, which may come at the wrong time only."""
    return kind in (METHOD, BODY) or (kind == HEADER and is_header(payload))


def unexpected(kind: int, payload: bytes) -> ConnectionFault:
    """Return the fault for a frame that must not come now."""
    return ConnectionFault(505, f"type {kind}, {_snippet(payload)}")


def unknown(kind: int, payload: bytes) -> ConnectionFault:
    """Return the fault for a frame of a type that does not exist."""
    return _frame_error(kind, payload, "unknown_frame")


def _frame_error(kind: int, payload: bytes, what: str) -> ConnectionFault:
    return ConnectionFault(501, f"type {kind}, {_snippet(payload)}: {what}")


def _snippet(payload: bytes) -> str:
    which = "all" if len(payload) <= _SHOWN else f"first {_SHOWN}"
    shown = payload[:_SHOWN]
    if shown and all(0x20 <= octet < 0x7F for octet in shown):
        text = shown.decode().replace("\\", "\\\\").replace('"', '\\"')
        return f'{which} octets = <<"{text}">>'
    return f"{which} octets = <<{','.join(map(str, shown))}>>"


def short_string(text: str) -> bytes:
    """Return `text` with its length in front."""
    raw = text.encode("utf-8", "surrogateescape")
    return bytes((len(raw),)) + raw


def read_short_string(raw: bytes, at: int) -> tuple[str, int]:
    """Return the short string at `at`, and where it ends."""
    end = at + 1 + raw[at]
    if end > len(raw):
        raise IndexError("the string is cut short")
    return raw[at + 1 : end].decode("utf-8", "surrogateescape"), end


def method_frame(channel: int, payload: bytes) -> bytes:
    """Return the frame of an encoded method."""
    return _pack_head(METHOD, channel, len(payload)) + payload + b"\xce"


def settlement(channel: int, method: int, tag: int, multiple: bool) -> bytes:
    """Return a basic.ack or basic.nack as a confirm."""
    return _tagged_method.pack(METHOD, channel, 13, method, tag, multiple) + b"\xce"


def deliver_prefix(consumer_tag: str) -> bytes:
    """Return what basic.deliver begins with, for one consumer."""
    return _number.pack(BASIC << 16 | 60) + short_string(consumer_tag)


def deliver(channel: int, prefix: bytes, tag: int, redelivered: bool, address: bytes) -> bytes:
    """Return a basic.deliver; `address` is exchange and routing key as on the wire."""
    size = len(prefix) + 9 + len(address)
    return b"%b%b%b%b\xce" % (
        _pack_head(METHOD, channel, size),
        prefix,
        _pack_deliver_end(tag, redelivered),
        address,
    )


def get_ok(channel: int, tag: int, redelivered: bool, address: bytes, ready: int) -> bytes:
    """Return a basic.get-ok."""
    return method_frame(channel, _pack_get_ok(BASIC << 16 | 71, tag, redelivered) + address + _number.pack(ready))


def returned(channel: int, code: int, text: str, address: bytes) -> bytes:
    """Return a basic.return."""
    return method_frame(channel, _return_head.pack(BASIC << 16 | 50, code) + short_string(text) + address)


def declare_ok(channel: int, queue: str, ready: int, consumers: int) -> bytes:
    """Return a queue.declare-ok, for any name."""
    counts = _number.pack(ready) + _number.pack(consumers)
    return method_frame(channel, _number.pack(50 << 16 | 11) + short_string(queue) + counts)


def content(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Return the header and body frames of a message."""
    size = len(body)
    header = _pack_content(HEADER, channel, 12 + len(properties), BASIC, 0, size)
    if size <= frame_max - OVERHEAD or not frame_max:
        if not size:
            return b"%b%b\xce" % (header, properties)
        return b"%b%b\xce%b%b\xce" % (header, properties, _pack_head(BODY, channel, size), body)
    most = frame_max - OVERHEAD
    pieces = [header, properties, b"\xce"]
    for at in range(0, size, most):
        piece = body[at : at + most]
        pieces += (_pack_head(BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(pieces)
