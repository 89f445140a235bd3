"""How many messages a second pass through a broker.

One process publishes persistent messages of 256 bytes with confirms, at most 1,000 unconfirmed; another one consumes
them with a prefetch of 1,000 and acks every 100th with `multiple`. Both do as little as they can, so the broker is what
is measured.
"""

from __future__ import annotations

import multiprocessing
import socket
import struct
import time

from pamqp import commands
from pamqp import frame as frames

from tests.harness.wire import Wire

BODY = b"x" * 256
WINDOW = 1000
CHUNK = 100
QUEUE = "bench"
_head = struct.Struct(">BHI").unpack_from


def measure(url: str, messages: int) -> float:
    """Return how many messages a second were published, confirmed, delivered and acked."""
    with Wire(url) as wire:
        channel = wire.channel()
        channel.declare(QUEUE, durable=True)
        channel.call(commands.Queue.Purge(queue=QUEUE))
        consumer = multiprocessing.Process(target=consume, args=(url, messages))
        consumer.start()
        while channel.counts(QUEUE)[1] == 0:
            time.sleep(0.01)
        begun = time.perf_counter()
        publish(url, messages)
        consumer.join()
        took_s = time.perf_counter() - begun
        channel.call(commands.Queue.Delete(queue=QUEUE))
    return messages / took_s


def publish(url: str, messages: int) -> None:
    """Publish, and return when all is confirmed."""
    with Wire(url) as wire:
        channel = wire.channel()
        channel.confirm()
        sent = channel.encoded_publish(QUEUE, BODY, delivery_mode=2) * CHUNK
        published = confirmed = 0
        while confirmed < messages:
            while published < messages and published - confirmed <= WINDOW - CHUNK:
                wire.send_bytes(sent)
                published += CHUNK
            confirmed = channel.read().delivery_tag


def consume(url: str, messages: int) -> None:
    """Consume, and return when all was acked."""
    with Wire(url) as wire:
        channel = wire.channel()
        channel.qos(1000)
        channel.consume(QUEUE)
        count_deliveries(wire._socket, wire._received, channel.number, messages)
        channel.sync()


def count_deliveries(connection: socket.socket, rest: bytes, number: int, messages: int) -> None:
    """Ack every hundredth delivery until all came, looking at nothing but the types of frames."""
    seen = acked = 0
    while acked < messages:
        data = rest + connection.recv(1 << 20)
        at = 0
        while len(data) - at >= 7:
            kind, _, size = _head(data, at)
            if at + 8 + size > len(data):
                break
            seen += kind == 3
            at += 8 + size
        rest = data[at:]
        if seen - acked >= CHUNK or seen == messages:
            connection.sendall(frames.marshal(commands.Basic.Ack(seen, True), number))
            acked = seen
