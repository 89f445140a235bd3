"""Payloads of plain JSON, which orjson reads and nobody has to check further: anything, an object, an array."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from mxworker.errors import DecodeError
from mxworker.payload_form import PayloadForm

_NAMES: Mapping[type, str] = MappingProxyType(
    {
        dict: "an object",
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "a boolean",
        type(None): "null",
    }
)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError(f"the body is not an object: it is {_named(value)}")
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise DecodeError(f"the body is not an array: it is {_named(value)}")
    return value


def _anything(value: Any) -> Any:
    return value


def _json_object(body: bytes) -> dict[str, Any]:
    value = orjson.loads(body)
    return value if type(value) is dict else _object(value)


def _json_array(body: bytes) -> list[Any]:
    value = orjson.loads(body)
    return value if type(value) is list else _array(value)


def _named(value: Any) -> str:
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def _explain(error: Exception) -> str:
    assert isinstance(error, orjson.JSONDecodeError)
    return f"the body is not JSON: {error.msg} at byte {error.pos}"


_REFUSALS = (orjson.JSONDecodeError,)

ANYTHING = PayloadForm(orjson.loads, _anything, _REFUSALS, _explain)
OBJECT = PayloadForm(_json_object, _object, _REFUSALS, _explain)
ARRAY = PayloadForm(_json_array, _array, _REFUSALS, _explain)
