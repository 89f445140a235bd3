"""Serialize a Python value to the bytes of a body.

JSON is the only built-in format of objects; an application can register others. A format that could run code when it is
read, such as pickle, is never chosen by default.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from types import MappingProxyType, NoneType
from typing import Any

import orjson

from mxworker.errors import EncodeError

Serializer = Callable[[Any], bytes]
"""Makes the body of a message from a value; the `encode` of a codec."""
NO_SERIALIZERS: Mapping[str, Serializer] = MappingProxyType({})

_TOO_LONG = "Integer exceeds 64-bit range"  # the error text of orjson
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

_HAS_NULL = re.compile(b"null").search  # 0.2 us for 400 bytes, half of what `in` takes
_ARRAYS = (list, tuple)
_NO_FLOATS = frozenset({str, int, bool, NoneType})  # the commonest types without floats inside

BUFFERS = (bytes, bytearray, memoryview)


def to_json(value: Any) -> bytes:
    """Return `value` as JSON.

    Takes all types of orjson (with dataclasses, datetimes, UUIDs and enums), msgspec structs and pydantic models. Whole
    numbers may have any size. Raises ValueError for NaN and infinity, which JSON does not have; pydantic itself makes
    null of them in fields whose type is not float, such as Any.
    """
    try:
        raw = orjson.dumps(value, default=_of_a_library)
    except orjson.JSONEncodeError as error:
        if _TOO_LONG not in str(error):
            raise
        raw = orjson.dumps(_with_long_numbers(value), default=_of_a_library)
    if _HAS_NULL(raw):  # as which orjson writes NaN and infinity, too
        _refuse_not_finite(value)
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


def _refuse_not_finite(value: Any) -> None:
    way = _way_to_not_finite(value)
    if way is not None:
        *keys, number = way
        place = "".join(f"[{key!r:.80}]" for key in keys)
        raise ValueError(f"JSON has no {number}" + (f", which is at {place}" if place else ""))


def _way_to_not_finite(value: Any) -> list[Any] | None:
    """Return the keys that lead to the first NaN or infinity in `value`, and the number; None without one."""
    kind = type(value)
    if kind is not dict and kind is not list:
        value = _plain(value)
        if isinstance(value, float):
            return None if isfinite(value) else [value]
    if isinstance(value, dict):
        values: Iterable[Any] = value.values()
    else:
        values = value if isinstance(value, _ARRAYS) else ()
    for one in values:
        kind = type(one)
        if kind in _NO_FLOATS or (kind is float and isfinite(one)):
            continue
        way = _way_to_not_finite(one)
        if way is not None:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            return [next(key for key, other in entries if other is one), *way]
    return None


def _plain(value: Any) -> Any:
    """Return what orjson writes for an enum, a dataclass or an object of a library, and any other value as it is."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        of_fields = {field.name: getattr(value, field.name) for field in fields(value)}
        attributes = of_fields | getattr(value, "__dict__", {})
        return {name: one for name, one in attributes.items() if not name.startswith("_")}
    try:
        return _of_a_library(value)
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
