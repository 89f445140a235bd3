"""Message keys: two deliveries with the same key, to any workers, are deliveries of the same message.

A key covers everything that the publisher sent: properties, headers, exchange, routing key and the whole body. It
covers the queue too, because each queue has its own message. It leaves out what the broker changes when it redelivers:
its delivery counts, and the order of the headers. RabbitMQ 3 sorts the headers when it adds one to them
(rabbit_misc:set_table_value); RabbitMQ 4 sorts them when they are published. Messages that differ in nothing else
count as the same one: a handler cannot tell them apart.

A key is a hash with a secret that no publisher knows, so nobody can give another message the same key. A copy for a
retry, or one that an operator publishes again, has other headers and is another message.

Pure.
"""

from __future__ import annotations

import re
import struct

from mxworker.errors import DecodeError
from mxworker.wire.field_table import in_order_of_names
from mxworker.wire.properties import headers_span

SECRET_BYTES = 16

_BROKERS = frozenset({b"x-delivery-count", b"x-acquired-count"})
# The same headers in a table that cannot be read. Such a table is not sorted, so the first delivery may have another
# key than the later ones, which costs one more killed worker. RabbitMQ writes the counts with the type octet l.
_BROKERS_PATTERN = re.compile(rb"\x10x-(?:delivery|acquired)-countl.{8}", re.DOTALL)
_CHUNK_BYTES = 64 * 1024  # a body is copied behind the secret, at most this much of it at once
_HAS_HEADERS = 0x20  # in the first byte of the flags
_sizes = struct.Struct(">IIIQ").pack
_digest = struct.Struct(">q").pack


class MessageKeys:
    """Makes the keys for the messages of one queue.

    It uses Python's own keyed hash (SipHash, PEP 456), which takes 0.3 us for 256 bytes where blake2b takes 1.2. Our
    secret is hashed first, because PYTHONHASHSEED may give Python's secret away.
    """

    def __init__(self, secret: bytes, queue: str) -> None:
        """Use a random `secret`. Keys agree only between processes that share it and were forked from one process."""
        name = queue.encode("utf-8", "surrogateescape")
        self._secret = secret
        self._start = secret + len(name).to_bytes(4, "big") + name

    def key(self, raw_properties: bytes, route: bytes, body: bytes) -> int:
        """Return the key of a message: a signed 64-bit integer, never 0. `raw_properties` and `route` are wire bytes.

        Takes about 0.7 ms for a MiB of body.
        """
        headers = b""
        if raw_properties and raw_properties[0] & _HAS_HEADERS:
            raw_properties, headers = _as_sent(raw_properties)
        size = len(body)
        sizes = _sizes(len(raw_properties), len(headers), len(route), size)
        content = body if size <= _CHUNK_BYTES else self._digests(body)
        return hash(b"".join((self._start, sizes, raw_properties, headers, route, content))) or 1

    def _digests(self, body: bytes) -> bytes:
        """Return the hashes of all chunks of a large body, joined."""
        view, secret = memoryview(body), self._secret
        parts = (view[at : at + _CHUNK_BYTES] for at in range(0, len(body), _CHUNK_BYTES))
        return b"".join([_digest(hash(b"".join((secret, part)))) for part in parts])


def _as_sent(raw: bytes) -> tuple[bytes, bytes]:
    """Return the properties without headers, and the headers sorted by name without those of the broker."""
    start, end = headers_span(raw)
    others = bytes((raw[0] & ~_HAS_HEADERS,)) + raw[1:start] + raw[end:]
    table = raw[start + 4 : end]
    try:
        return others, in_order_of_names(table, _BROKERS)
    except DecodeError:
        return others, _BROKERS_PATTERN.sub(b"", table)
