"""Which bodies are decoded as they come, and which take a turn and room: see `decode_budget`.

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
# A compressed body up to here comes to a mebibyte at most, which takes 3 ms; a thread would cost others more than that.
_SMALL_BODY_BYTES = 8 * 1024


def large_bytes_of(handler: Handler) -> int:
    """Return above what size a body is large: none is that becomes nothing else."""
    return LARGE_BODY_BYTES if expected_growth(handler.decode) > 1 else sys.maxsize


def small_body(handler: Handler, delivery: Delivery) -> bytes | None:
    """Return the body as its content-encoding says; None when it is large then, or may be. Raises DecodeError.

    A handler that takes bytes gets a body that nobody can undo here as it was sent.
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
