"""From a body's bytes to what a handler takes, as the annotation of its first parameter says.

`decoder_for` is asked once per handler, at start; what it returns runs for every delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args, get_origin

import orjson

from mxworker.delivery import Delivery
from mxworker.errors import DecodeError

Decoder = Callable[[Delivery, bytes], Any]
"""Takes a delivery and its body, decompressed; returns what the handler takes."""


def decoder_for(annotation: Any) -> Decoder | None:
    """Return the decoder for `annotation`, or None when there is no way to honour it.

    `Delivery` takes the delivery itself, `bytes` its body, `str` its body as UTF-8; `dict`, `list` and `Any` take JSON,
    the first two only an object or an array. `dict[str, Any]` and `list[Any]` mean the same as `dict` and `list`; other
    type arguments are refused, because nothing would check them. Decoders raise DecodeError.
    """
    try:
        return _DECODERS.get(_ALIASES.get((get_origin(annotation), get_args(annotation)), annotation))
    except TypeError:  # an annotation that cannot be hashed is none of ours
        return None


def whole_delivery(delivery: Delivery, body: bytes) -> Delivery:
    """Return the delivery itself. The one decoder that does not look at the body, so that none need be decompressed."""
    return delivery


def _body(delivery: Delivery, body: bytes) -> bytes:
    return body


def _text(delivery: Delivery, body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None


def _json(delivery: Delivery, body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"the body is not JSON: {error.msg} at byte {error.pos}") from None


def _json_object(delivery: Delivery, body: bytes) -> dict[str, Any]:
    value = _json(delivery, body)
    if type(value) is not dict:
        raise DecodeError(f"the body is JSON, but not an object: it is {_JSON_NAMES[type(value)]}")
    return value


def _json_array(delivery: Delivery, body: bytes) -> list[Any]:
    value = _json(delivery, body)
    if type(value) is not list:
        raise DecodeError(f"the body is JSON, but not an array: it is {_JSON_NAMES[type(value)]}")
    return value


_JSON_NAMES: Mapping[type, str] = MappingProxyType(
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
_DECODERS: Mapping[Any, Decoder] = MappingProxyType(
    {
        Delivery: whole_delivery,
        bytes: _body,
        str: _text,
        dict: _json_object,
        list: _json_array,
        Any: _json,
        object: _json,
    }
)
_ALIASES: Mapping[tuple[Any, tuple[Any, ...]], Any] = MappingProxyType(
    {
        (dict, (str, Any)): dict,
        (dict, (str, object)): dict,
        (list, (Any,)): list,
        (list, (object,)): list,
    }
)
TAKEN = "bytes, str, dict, list, Any or mxworker.Delivery"
