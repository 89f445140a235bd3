"""The publishing side of a channel: content is assembled, routed, returned, confirmed, or kept for a transaction."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from mxworker.devbroker import frames
from mxworker.devbroker.client import Line
from mxworker.devbroker.confirms import Confirms
from mxworker.devbroker.faults import ConnectionFault, Fault, access_refused, precondition_failed
from mxworker.devbroker.message import REPLY_TO, Message, assert_whole, published, replaced, with_reply_to
from mxworker.devbroker.queues import Queue
from mxworker.devbroker.topology import DEFAULT
from mxworker.devbroker.vhost import ReplyReceiver
from mxworker.wire.properties import FLAG_REPLY_TO

_MANDATORY, _IMMEDIATE = 1, 2
_CACHED_ADDRESSES = 256
_NO_ROUTE = (312, "NO_ROUTE")
_content_head = struct.Struct(">HHQ").unpack_from
_CONTENT_HEAD_BYTES = 12


class _Target(NamedTuple):
    """What a basic.publish says."""

    exchange: str
    routing_key: str
    address: bytes
    bits: int


class _Routed(NamedTuple):
    """A message with the queues it goes to; a reply goes to a channel instead."""

    message: Message
    queues: Sequence[Queue]
    reply_to: ReplyReceiver | None
    mandatory: bool


class Publishing:
    """Takes what the client publishes. `confirms` is None until confirm.select came."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.confirms: Confirms | None = None
        self.transaction: list[_Routed] | None = None
        self.reply_token: str | None = None  # of the channel's consumer of direct replies
        self._targets: dict[bytes, _Target] = {}
        self._target: _Target | None = None
        self._properties = b""
        self._missing_bytes = -1  # of the body; -1 while no header came
        self._pieces: list[bytes] = []

    def on_publish(self, payload: bytes) -> None:
        """Begin a message; its header and body follow."""
        if self._target is not None:
            raise ConnectionFault(505, "expected content header for class 60, got non content header frame instead")
        target = self._targets.get(payload)
        if target is None:
            target = _read_target(payload)
            if len(self._targets) >= _CACHED_ADDRESSES:
                self._targets.clear()
            self._targets[payload] = target
        self._target = target

    @property
    def awaits_content(self) -> str | None:
        """Which frame has to come next, `header` or `body`; None when it is a method."""
        if self._target is None:
            return None
        return "header" if self._missing_bytes < 0 else "body"

    def on_header(self, payload: bytes) -> None:
        """Take the properties and the size of the body; the payload is one that `frames.is_header` takes."""
        if self._target is None:
            raise ConnectionFault(505, "expected method frame, got non method frame instead")
        if self._missing_bytes >= 0:
            raise ConnectionFault(505, "expected content body, got non content body frame instead")
        class_id, weight, size = _content_head(payload)
        if weight:
            raise ConnectionFault(505, "expected content header for class 60, got non content header frame instead")
        if class_id != frames.BASIC:
            raise ConnectionFault(505, f"expected content header for class 60, got one for class {class_id} instead")
        if size > self._line.limits.max_message_bytes:
            raise precondition_failed(
                f"message size {size} is larger than configured max size {self._line.limits.max_message_bytes}"
            )
        properties = payload[_CONTENT_HEAD_BYTES:]
        if properties != self._properties:
            assert_whole(properties)
            self._properties = properties
        self._missing_bytes = size
        if not size:
            self._complete(b"")

    def on_body(self, payload: bytes) -> None:
        """Take a piece of the body."""
        if self._target is None:
            raise ConnectionFault(505, "expected method frame, got non method frame instead")
        if self._missing_bytes < 0:
            raise ConnectionFault(505, "expected content header for class 60, got non content header frame instead")
        missing = self._missing_bytes - len(payload)
        if missing < 0:
            raise ConnectionFault(505, f"content body is larger than its header says, by {-missing} bytes")
        if not missing and not self._pieces:
            self._complete(payload)
            return
        self._pieces.append(payload)
        self._missing_bytes = missing
        if not missing:
            self._complete(b"".join(self._pieces))

    def commit(self) -> None:
        """Publish what the transaction holds."""
        waiting, self.transaction = self.transaction or [], []
        for routed in waiting:
            self._deliver(routed)

    def flush(self) -> None:
        """Send the confirms that were held back to be told together."""
        if self.confirms is not None and (told := self.confirms.flush()):
            self._line.client.write(told)

    def _complete(self, body: bytes) -> None:
        target, self._target = self._target, None
        self._missing_bytes = -1
        if self._pieces:
            self._pieces = []
        assert target is not None
        exchange, routing_key, address, bits = target
        if bits & _IMMEDIATE:
            raise Fault(540, "immediate=true")
        found = self._line.vhost.topology.exchange(exchange)
        if found.internal:
            raise access_refused(f"cannot publish to internal {self._line.vhost.topology.where('exchange', exchange)}")
        message = published(exchange, routing_key, self._properties, body, address, self._line.client.user)
        if message.flags & FLAG_REPLY_TO:
            message = self._with_own_address(message)
        if exchange == DEFAULT and routing_key.startswith(f"{REPLY_TO}."):
            receiver = self._line.vhost.reply_receivers.get(routing_key)
            routed = _Routed(message, (), receiver, bool(bits & _MANDATORY))
        else:
            routed = _Routed(message, self._line.vhost.topology.route(found, message), None, bool(bits & _MANDATORY))
        if self.transaction is not None:
            self.transaction.append(routed)
        else:
            self._deliver(routed)

    def _deliver(self, routed: _Routed) -> None:
        message, queues, receiver, mandatory = routed
        accepted = True
        if receiver is not None:
            receiver.deliver_reply(message)
        elif queues:
            accepted = self._line.vhost.deliver(message, queues)
        elif mandatory:
            self._return(message)
        if self.confirms is not None and (told := self.confirms.decide(accepted)):
            self._line.client.write(told)

    def _return(self, message: Message) -> None:
        client, number = self._line.client, self._line.number
        client.write(
            frames.returned(number, *_NO_ROUTE, message.address)
            + frames.content(number, message.properties, message.body, client.frame_max)
        )

    def _with_own_address(self, message: Message) -> Message:
        """Put the address of this channel where the client asks for direct replies."""
        if message.read.reply_to != REPLY_TO:
            return message
        if self.reply_token is None:
            raise precondition_failed("fast reply consumer does not exist")
        return replaced(message, with_reply_to(message.properties, FLAG_REPLY_TO, self.reply_token))


def _read_target(payload: bytes) -> _Target:
    try:
        exchange, at = frames.read_short_string(payload, 6)
        routing_key, end = frames.read_short_string(payload, at)
        return _Target(exchange, routing_key, payload[6:end], payload[end])
    except IndexError:
        raise ConnectionFault(501, "cannot decode the arguments of Basic.Publish") from None
