"""Cut a stream of AMQP 0-9-1 bytes into frames, so that a test can name what it wants to break.

Pure: no sockets. Independent of mxworker on purpose: a harness that shared its parser would share its mistakes.
Never fails: bytes that are not AMQP come out as pieces of kind RAW, and stay raw from there on.

A frame is `kind (1 octet) channel (2) size (4) payload (size) 0xCE`; a method that carries content (basic.publish,
basic.deliver ...) is followed on its channel by one header frame and any number of body frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pamqp.commands import INDEX_MAPPING

RAW = 0
METHOD = 1
HEADER = 2
BODY = 3
BEAT = 8
_KINDS = {METHOD: "method", HEADER: "header", BODY: "body", BEAT: "heartbeat", RAW: "raw"}

MethodId = tuple[int, int]

HEARTBEAT: MethodId = (0, 0)  # not a method of AMQP: lets a rule name heartbeat frames
CONNECTION_TUNE_OK: MethodId = (10, 31)
CONNECTION_CLOSE: MethodId = (10, 50)
CONNECTION_BLOCKED: MethodId = (10, 60)
CHANNEL_OPEN: MethodId = (20, 10)
CHANNEL_CLOSE: MethodId = (20, 40)
CHANNEL_CLOSE_OK: MethodId = (20, 41)
QUEUE_DECLARE: MethodId = (50, 10)
BASIC_CONSUME_OK: MethodId = (60, 21)
BASIC_CANCEL: MethodId = (60, 30)
BASIC_CANCEL_OK: MethodId = (60, 31)
BASIC_PUBLISH: MethodId = (60, 40)
BASIC_RETURN: MethodId = (60, 50)
BASIC_DELIVER: MethodId = (60, 60)
BASIC_ACK: MethodId = (60, 80)
BASIC_REJECT: MethodId = (60, 90)
BASIC_NACK: MethodId = (60, 120)

FRAME_END = 0xCE
_PREFIX = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">HH")
_PROTOCOL_HEADER_BYTES = 8
_LARGEST_PAYLOAD_BYTES = 16 * 1024 * 1024  # far above every frame_max in use: a larger size field is not AMQP


@dataclass(slots=True)
class Frame:
    """One frame with its bytes as they came. `method` is its own, or for content that of the method it belongs to."""

    raw: bytes
    kind: int
    channel: int = 0
    method: MethodId | None = None

    def __str__(self) -> str:
        return describe(self.kind, self.channel, self.method, len(self.raw))


def describe(kind: int, channel: int, method: MethodId | None, size_bytes: int) -> str:
    """Say what a frame is, for people."""
    name = "" if method is None or method == HEARTBEAT else f" {method_name(method)}"
    return f"{_KINDS[kind]}{name} channel={channel} {size_bytes} bytes"


def method_name(method: MethodId) -> str:
    """Return `Basic.Deliver` for (60, 60), and the two numbers when AMQP has no such method."""
    known = INDEX_MAPPING.get(method[0] << 16 | method[1])
    return known.__qualname__ if known else f"{method[0]}.{method[1]}"


def encode(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a well-formed frame."""
    return _PREFIX.pack(kind, channel, len(payload)) + payload + bytes((FRAME_END,))


class FrameSplitter:
    """Cuts one direction of one connection. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_amqp = True
        self._content_of: dict[int, MethodId] = {}

    @property
    def unfinished(self) -> bytes:
        """The bytes that wait for the rest of their frame."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes; together with `unfinished` they hold every byte that came."""
        if not self._is_amqp:
            return [Frame(data, RAW)]
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        while (size := self._size_at(start)) and start + size <= len(self._buffer):
            frames.append(self._frame(bytes(self._buffer[start : start + size])))
            start += size
        del self._buffer[:start]
        if not self._is_amqp and self._buffer:
            frames.append(Frame(bytes(self._buffer), RAW))
            self._buffer.clear()
        return frames

    def _size_at(self, start: int) -> int:
        """Return the size of the frame that begins at `start`, 0 when it cannot be told (yet)."""
        held = len(self._buffer) - start
        if held <= 0:
            return 0
        kind = self._buffer[start]
        if kind == ord("A") and b"AMQP".startswith(bytes(self._buffer[start : start + 4])):
            return _PROTOCOL_HEADER_BYTES
        if kind not in (METHOD, HEADER, BODY, BEAT):
            self._is_amqp = False
            return 0
        if held < _PREFIX.size:
            return 0
        payload_bytes: int = _PREFIX.unpack_from(self._buffer, start)[2]
        if payload_bytes > _LARGEST_PAYLOAD_BYTES:
            self._is_amqp = False
            return 0
        return _PREFIX.size + payload_bytes + 1

    def _frame(self, raw: bytes) -> Frame:
        kind = raw[0]
        if kind not in (METHOD, HEADER, BODY, BEAT):
            return Frame(raw, RAW)
        channel: int = _PREFIX.unpack_from(raw)[1]
        if kind == BEAT:
            return Frame(raw, BEAT, channel, HEARTBEAT)
        if kind == METHOD and len(raw) >= _PREFIX.size + _METHOD_ID.size + 1:
            self._content_of[channel] = _METHOD_ID.unpack_from(raw, _PREFIX.size)
        return Frame(raw, kind, channel, self._content_of.get(channel))
