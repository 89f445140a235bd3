"""From JSON back to the values that the master reports: the way back of `orjson.dumps`, by the annotations of a class.

Pure. Fields that the class does not know are ignored, and missing ones get their defaults: the master and its reader
may be of different versions.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decoded(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Return a `kind`, a dataclass of scalars, tuples, mappings and other dataclasses, with these fields.

    Raises TypeError or ValueError when a field is missing or has another form.
    """
    if not isinstance(fields, Mapping):
        raise TypeError(f"{kind.__name__} is made of fields, not of {type(fields).__name__}")
    hints = _fields_of(cast(Hashable, kind))
    return kind(**{name: _value(hints[name], value) for name, value in fields.items() if name in hints})


@cache
def _fields_of(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        return _value(next(each for each in arguments if each is not types.NoneType), value)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], item) for item in value)
        return tuple(_value(each, item) for each, item in zip(arguments, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _value(arguments[1], item) for key, item in value.items()}
    is_whole = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    return decoded(hint, value) if is_whole else value
