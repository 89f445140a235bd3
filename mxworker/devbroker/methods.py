"""Methods of AMQP in the frames of a client, decoded by pamqp. Pure."""

from __future__ import annotations

from pamqp import commands, exceptions
from pamqp import frame as codec
from pamqp.base import Frame

from mxworker.devbroker import frames
from mxworker.devbroker.faults import ConnectionFault

CONNECTION_CLOSE = 10 << 16 | 50
CONNECTION_CLOSE_OK = 10 << 16 | 51


def method_id(payload: bytes) -> int:
    """Return the numbers of class and method in one; those of a payload that is cut short are 0."""
    return int.from_bytes(payload[:4], "big")


def decoded(payload: bytes) -> Frame:
    """Return the method in a frame; ConnectionFault when there is none, or when its arguments cannot be read."""
    try:
        method = codec.unmarshal(frames.method_frame(0, payload))[2]
    except (exceptions.UnmarshalingException, ValueError, IndexError, OverflowError, OSError, RecursionError) as error:
        raise _unreadable(payload, error) from error
    assert isinstance(method, Frame)
    return method


def _unreadable(payload: bytes, error: Exception) -> ConnectionFault:
    known = commands.INDEX_MAPPING.get(method_id(payload))
    if known is None:
        return ConnectionFault(503, "unimplemented method")
    reason = error.__cause__ or error
    if isinstance(reason, UnicodeDecodeError):
        return ConnectionFault(501, "Malformed UTF-8 in shortstr")
    what = "tables are nested too deeply" if isinstance(reason, RecursionError) else reason
    return ConnectionFault(501, f"cannot decode the arguments of {known().name}: {what}")
