"""The wire server in Python, for machines without a C compiler: `python -m bench.wire.plain_server DELIVERIES QUEUE`.

See `server.c`, which does the same. It costs about as much as a client, so with it the rates of fast clients are those
of this server; their CPU times are right.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from dataclasses import dataclass, field

from bench.wire.replies import CONTENT_BODY, CONTENT_HEADER, GREETING, Key, read_records

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
CONFIRM_EACH = 100
OUT_BYTES = 256 * 1024  # more is not written before the client has read
READ_BYTES = 256 * 1024
NO_LIMIT = 65_535  # of unsettled deliveries, for a client that asks for no prefetch
_head = struct.Struct(">BHI")
_ack = struct.Struct(">HHQB")
_tag = struct.Struct(">Q")


def framed(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame."""
    return _head.pack(kind, channel, len(payload)) + payload + b"\xce"


@dataclass(slots=True)
class Counts:
    """What all clients have done."""

    left: int
    delivered: int = 0
    settled: int = 0
    published: int = 0


@dataclass(slots=True)
class Channel:
    """What is known of a channel."""

    number: int
    before_tag: bytes = b""
    after_tag: bytes = b""
    prefetch: int = NO_LIMIT
    last_tag: int = 0
    unsettled: set[int] = field(default_factory=set)
    body_left: int = 0
    published: int = 0
    confirmed: int = 0


class Connection:
    """One client, without its socket."""

    def __init__(self, answers: dict[Key, bytes], counts: Counts, queue: bytes) -> None:
        self.out = b""
        self._answers = answers
        self._counts = counts
        self._queue = queue
        self._received = b""
        self._greeted = False
        self._channels: dict[int, Channel] = {}

    def feed(self, data: bytes) -> None:
        """Take bytes of the client, and add the answers to `out`."""
        data = self._received + data
        at = 0
        if not self._greeted and len(data) >= 8:
            at, self._greeted = 8, True
            self.out += framed(METHOD, 0, self._answers[GREETING])
        while self._greeted and len(data) - at >= 8:
            kind, number, size = _head.unpack_from(data, at)
            end = at + 8 + size
            if end > len(data):
                break
            self._on_frame(kind, number, data, at + 7, size)
            at = end
        self._received = data[at:]
        for channel in self._channels.values():
            self._confirm(channel)

    def deliver(self) -> None:
        """Add deliveries to `out`, as many as there are, as the prefetch allows, and as the client reads."""
        for channel in self._channels.values():
            if not channel.before_tag:
                continue
            one_bytes = len(channel.before_tag) + len(channel.after_tag) + 8
            room = (OUT_BYTES - len(self.out)) // one_bytes + 1
            count = min(self._counts.left, channel.prefetch - len(channel.unsettled), room)
            if count <= 0:
                continue
            tags = range(channel.last_tag + 1, channel.last_tag + count + 1)
            before, after = channel.before_tag, channel.after_tag
            self.out += b"".join([part for tag in tags for part in (before, _tag.pack(tag), after)])
            channel.unsettled.update(tags)
            channel.last_tag += count
            self._counts.left -= count
            self._counts.delivered += count

    def _on_frame(self, kind: int, number: int, data: bytes, at: int, size: int) -> None:
        channel = self._channels.setdefault(number, Channel(number))
        if kind == METHOD:
            class_id, method_id = struct.unpack_from(">HH", data, at)
            self._on_method(channel, (class_id, method_id), data[at + 4 : at + size])
        elif kind == HEADER:
            (channel.body_left,) = _tag.unpack_from(data, at + 4)
            self._on_content(channel, 0)
        elif kind == BODY:
            self._on_content(channel, size)
        elif kind == HEARTBEAT:
            self.out += framed(HEARTBEAT, 0, b"")

    def _on_content(self, channel: Channel, size: int) -> None:
        channel.body_left -= size
        if channel.body_left == 0:
            channel.published += 1
            self._counts.published += 1
            if channel.published - channel.confirmed == CONFIRM_EACH:
                self._confirm(channel)

    def _confirm(self, channel: Channel) -> None:
        if channel.published > channel.confirmed:
            self.out += framed(METHOD, channel.number, _ack.pack(60, 80, channel.published, 1))
            channel.confirmed = channel.published

    def _on_method(self, channel: Channel, key: Key, payload: bytes) -> None:
        if key in {(60, 80), (60, 90), (60, 120)}:
            self._on_settled(channel, _tag.unpack_from(payload)[0], key != (60, 90) and payload[8] & 1)
        elif key == (60, 20):
            self._on_consume(channel, payload)
        elif key == (60, 30):
            channel.before_tag = b""
            self.out += framed(METHOD, channel.number, struct.pack(">HH", 60, 31) + payload[: payload[0] + 1])
        elif key in self._answers:
            if key == (60, 10):
                channel.prefetch = struct.unpack_from(">H", payload, 4)[0] or NO_LIMIT
            if key == (20, 40):
                del self._channels[channel.number]
            self.out += framed(METHOD, channel.number, self._answers[key])

    def _on_settled(self, channel: Channel, tag: int, multiple: int) -> None:
        settled = {each for each in channel.unsettled if each <= tag} if multiple else {tag} & channel.unsettled
        channel.unsettled -= settled
        self._counts.settled += len(settled)

    def _on_consume(self, channel: Channel, payload: bytes) -> None:
        at = 2 + 1 + payload[2]
        consumer_tag = payload[at : at + 1 + payload[at]] if payload[at] else b"\4wire"
        self.out += framed(METHOD, channel.number, struct.pack(">HH", 60, 21) + consumer_tag)
        exchange_and_key = b"\0" + bytes([len(self._queue)]) + self._queue
        method = struct.pack(">HH", 60, 60) + consumer_tag + bytes(9) + exchange_and_key
        frame = framed(METHOD, channel.number, method)
        tag_at = 7 + 4 + len(consumer_tag)
        header = framed(HEADER, channel.number, self._answers[CONTENT_HEADER])
        body = framed(BODY, channel.number, self._answers[CONTENT_BODY])
        channel.before_tag, channel.after_tag = frame[:tag_at], frame[tag_at + 8 :] + header + body


def serve(listening: socket.socket, answers: dict[Key, bytes], counts: Counts, queue: bytes) -> None:
    """Serve until the standard input ends."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    poll.register(listening, select.POLLIN)
    connections: dict[int, tuple[socket.socket, Connection]] = {}
    while True:
        for fd, events in poll.poll():
            if fd == 0:
                return
            if fd == listening.fileno():
                sock, _ = listening.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                connections[sock.fileno()] = sock, Connection(answers, counts, queue)
                poll.register(sock, select.POLLIN)
            elif not _turn(*connections[fd], events):
                poll.unregister(fd)
                connections.pop(fd)[0].close()
            else:
                poll.modify(fd, select.POLLIN | (select.POLLOUT if connections[fd][1].out else 0))


def _turn(sock: socket.socket, connection: Connection, events: int) -> bool:
    """Read, answer and write once; False when the client has gone."""
    try:
        if events & ~select.POLLOUT:
            data = sock.recv(READ_BYTES)
            if not data:
                return False
            connection.feed(data)
        connection.deliver()
        if connection.out:
            connection.out = connection.out[sock.send(connection.out) :]
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def main() -> None:
    """Read the records, tell the port, serve, and tell what was counted."""
    counts, queue = Counts(int(sys.argv[1])), sys.argv[2].encode()
    size = int.from_bytes(os.read(0, 8), "big")
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        serve(listening, read_records(data), counts, queue)
    print(counts.delivered, counts.settled, counts.published, flush=True)


if __name__ == "__main__":
    main()
