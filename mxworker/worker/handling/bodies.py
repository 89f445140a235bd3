"""The choice between bodies that are decoded at once, and large ones that wait for their turn: see `decode_budget`.

Pure.
"""

from __future__ import annotations

import sys

from mxworker.amqp.consuming.byte_budget import LARGE_BODY_BYTES
from mxworker.api.compilation import Handler
from mxworker.api.decoder import whole_body, whole_delivery
from mxworker.api.delivery import Delivery
from mxworker.payloads.compression import UnknownCoding, decompress, is_compressed
from mxworker.wire.properties import FLAG_CONTENT_ENCODING
from mxworker.worker.handling.payload_size import expected_growth

ENCODED = FLAG_CONTENT_ENCODING >> 8
"""The bit of a content-encoding in the first octet of the raw properties."""
# A compressed body up to this size becomes a mebibyte at most. That takes 3 ms, less than a thread would cost others.
_SMALL_BODY_BYTES = 8 * 1024


def large_bytes_of(handler: Handler) -> int:
    """Return the size above which a body is large. No body is large for a handler that takes it undecoded."""
    return LARGE_BODY_BYTES if expected_growth(handler.decode) > 1 else sys.maxsize


def small_body(handler: Handler, delivery: Delivery) -> bytes | None:
    """Return the decompressed body; None when it is, or may be, large. Raises DecodeError.

    A handler that takes bytes gets a body in an unknown coding as it was sent.
    """
    body = delivery.body
    if not delivery.raw_properties[0] & ENCODED or handler.decode is whole_delivery:
        return body
    encoding = delivery.properties.content_encoding or ""
    try:
        if not is_compressed(encoding):
            return decompress(body, encoding)
        if len(body) > _SMALL_BODY_BYTES:
            return None
        content = decompress(body, encoding)
    except UnknownCoding:
        if handler.decode is whole_body:
            return body
        raise
    return content if len(content) <= LARGE_BODY_BYTES else None
