"""The frames that a wire server sends, made in advance, and how they are handed to it.

A server reads records from its standard input: class and method of what the client sent (two 16-bit numbers), the
length of the answer (32 bits), and the answer, a method payload. Some records are special: `GREETING` answers the
protocol header, and `CONTENT_HEADER` and `CONTENT_BODY` are the payloads of a delivery's header and body frame. An
empty record with the key `END` is the last.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from pamqp import commands, header
from pamqp import frame as frames
from pamqp.base import Frame

from bench.client.payload import payload

Key = tuple[int, int]
GREETING: Key = (0, 0)
CONTENT_HEADER: Key = (60, 0)
CONTENT_BODY: Key = (60, 1)
END: Key = (0xFFFF, 0xFFFF)
FRAME_MAX = 131_072
CHANNEL_MAX = 255
_HEARTBEAT_S = 60
_RECORD = struct.Struct(">HHI")
_CAPABILITIES = ("publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked", "per_consumer_qos")


def replies(queue: str, body_bytes: int) -> dict[Key, bytes]:
    """Return the answer to each method that a client may send, as a method payload."""
    body = json.dumps(payload(body_bytes), separators=(",", ":")).encode()
    content = header.ContentHeader(body_size=len(body), properties=commands.Basic.Properties(delivery_mode=2))
    return {
        GREETING: _payload(_start()),
        (10, 11): _payload(commands.Connection.Tune(CHANNEL_MAX, FRAME_MAX, _HEARTBEAT_S)),
        (10, 40): _payload(commands.Connection.OpenOk()),
        (10, 50): _payload(commands.Connection.CloseOk()),
        (20, 10): _payload(commands.Channel.OpenOk()),
        (20, 40): _payload(commands.Channel.CloseOk()),
        (40, 10): _payload(commands.Exchange.DeclareOk()),
        (50, 10): _payload(commands.Queue.DeclareOk(queue, 0, 1)),
        (50, 20): _payload(commands.Queue.BindOk()),
        (60, 10): _payload(commands.Basic.QosOk()),
        (60, 70): _payload(commands.Basic.GetEmpty()),
        (85, 10): _payload(commands.Confirm.SelectOk()),
        CONTENT_HEADER: _payload(content),
        CONTENT_BODY: body,
    }


def records(answers: dict[Key, bytes]) -> bytes:
    """Return the answers as a server reads them."""
    packed = (_RECORD.pack(*key, len(answer)) + answer for key, answer in {**answers, END: b""}.items())
    return b"".join(packed)


def read_records(data: bytes) -> dict[Key, bytes]:
    """Return the answers that `records` has packed."""
    answers: dict[Key, bytes] = {}
    at = 0
    while True:
        class_id, method_id, size = _RECORD.unpack_from(data, at)
        if (class_id, method_id) == END:
            return answers
        at += _RECORD.size
        answers[class_id, method_id] = data[at : at + size]
        at += size


def _start() -> commands.Connection.Start:
    properties: dict[str, Any] = {"product": "wire", "version": "0", "capabilities": dict.fromkeys(_CAPABILITIES, True)}
    return commands.Connection.Start(0, 9, properties, "PLAIN AMQPLAIN", "en_US")


def _payload(frame: Frame | header.ContentHeader) -> bytes:
    return frames.marshal(frame, 0)[7:-1]
