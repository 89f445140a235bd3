"""Serialize a Python value to the bytes of a body.

JSON is the only built-in format of objects; an application can register others. A format that could run code when it is
read, such as pickle, is never chosen by default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any

import orjson

from mxworker.errors import EncodeError

Serializer = Callable[[Any], bytes]
"""Makes the body of a message from a value; the `encode` of a codec."""
NO_SERIALIZERS: Mapping[str, Serializer] = MappingProxyType({})

_TOO_LONG = "Integer exceeds 64-bit range"  # the error text of orjson
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

BUFFERS = (bytes, bytearray, memoryview)


def to_json(value: Any) -> bytes:
    """Return `value` as JSON.

    Takes all types of orjson (with dataclasses, datetimes, UUIDs and enums), msgspec structs and pydantic models. Whole
    numbers may have any size. NaN and infinity, which JSON does not have, become null.
    """
    try:
        raw = orjson.dumps(value, default=_of_a_library)
    except orjson.JSONEncodeError as error:
        if _TOO_LONG not in str(error):
            raise
        raw = orjson.dumps(_with_long_numbers(value), default=_of_a_library)
    # The bytes are copied, because those of orjson keep its buffer alive: 10,000 small messages in flight held 40 MB.
    return memoryview(raw).tobytes()


def serialize(serializer: Serializer, value: Any, content_type: str) -> bytes:
    """Return the bytes of `value` from `serializer`. Any exception of the serializer becomes an EncodeError."""
    try:
        body = serializer(value)
    except Exception as error:  # the serializer, and methods of the value, are the application's code
        raise EncodeError(f"a {type(value).__name__} cannot be sent as {content_type}: {error}") from error
    if not isinstance(body, BUFFERS):
        raise EncodeError(f"the serializer for {content_type} returned a {type(body).__name__} instead of bytes")
    return bytes(body)


def _with_long_numbers(value: Any) -> Any:
    """Return a copy of `value` with each whole number that orjson refuses as a fragment of JSON text."""
    match value:
        case int() if not _SMALLEST <= value <= _LARGEST:
            return orjson.Fragment(str(int(value)))
        case dict():
            return {key: _with_long_numbers(one) for key, one in value.items()}
        case list() | tuple():
            return [_with_long_numbers(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):  # orjson leaves private fields out, and so does this
        names = (field.name for field in fields(value) if not field.name.startswith("_"))
        return {name: _with_long_numbers(getattr(value, name)) for name in names}
    try:
        return _with_long_numbers(_of_a_library(value))
    except TypeError:
        return value


def _of_a_library(value: Any) -> Any:
    """Convert a msgspec struct or pydantic model for orjson, without importing either library."""
    kind = type(value)
    if hasattr(kind, "__struct_fields__"):
        return sys.modules["msgspec"].to_builtins(value)
    if hasattr(kind, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a {kind.__name__} has no form in JSON")
