"""Samples of the types that msgspec reads: structs, dataclasses, TypedDicts and what is in them.

They are made of msgspec's own description of a type, because its JSON schema tells less: neither which texts are times,
nor the keys of a mapping.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from mxworker.samples.values import (
    BASE64,
    DATE,
    DATE_TIME,
    DATE_TIME_WITHOUT_ZONE,
    DECIMAL,
    DURATION,
    KEY,
    TEXT,
    TIME,
    TIME_WITHOUT_ZONE,
    UUID,
    NoSample,
    first_of,
    is_plain,
    real,
    text,
    unmatched,
    whole,
)

Inside = tuple[type, ...]
"""The classes around a part. One that comes a second time would never end."""


def sample_of_type(annotation: Any) -> Any:
    """Return a value for orjson, from which msgspec makes an `annotation`. Raises NoSample."""
    return _value(inspect.type_info(annotation), ())


def _value(info: inspect.Type, inside: Inside) -> Any:
    match info:
        case inspect.Metadata():
            examples = (info.extra_json_schema or {}).get("examples")
            return examples[0] if examples else _value(info.type, inside)
        case inspect.UnionType():
            null_last = sorted(info.types, key=lambda part: isinstance(part, inspect.NoneType))
            return first_of(null_last, lambda part: _value(part, inside))
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            return _repeated(info.item_type, info.min_length, inside)
        case inspect.TupleType():
            return [_value(item, inside) for item in info.item_types]
        case inspect.DictType():
            return _mapping(info, inside)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
            return _record(info, inside)
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return next(iter(info.cls)).value
    return _single(info)


def _single(info: inspect.Type) -> Any:
    """Return the value of a type that has no others in it."""
    match info:
        case inspect.IntType():
            least = info.ge if info.gt is None else info.gt + 1
            most = info.le if info.lt is None else info.lt - 1
            return whole(least, most, info.multiple_of)
        case inspect.FloatType():
            return real(info.ge, info.le, info.gt, info.lt, info.multiple_of)
        case inspect.StrType():
            if info.pattern is not None:
                raise unmatched(info.pattern)
            return text(info.min_length, info.max_length)
        case inspect.DateTimeType():
            return DATE_TIME_WITHOUT_ZONE if info.tz is False else DATE_TIME
        case inspect.TimeType():
            return TIME_WITHOUT_ZONE if info.tz is False else TIME
        case inspect.CustomType():
            raise NoSample(f"nothing is known about a {info.cls.__name__}")
    if type(info) not in _PLAIN:
        raise NoSample(f"nothing is known about the type {type(info).__name__.removesuffix('Type')} of msgspec")
    return _PLAIN[type(info)]


def _repeated(item: inspect.Type, least: int | None, inside: Inside) -> list[Any]:
    try:
        return [_value(item, inside)] * (least or 1)
    except NoSample:
        if least:
            raise
        return []


def _mapping(info: inspect.DictType, inside: Inside) -> dict[str, Any]:
    try:
        return {_key(info.key_type, inside): _value(info.value_type, inside)}
    except NoSample:
        if info.min_length:
            raise
        return {}


def _key(info: inspect.Type, inside: Inside) -> str:
    if isinstance(info, inspect.AnyType) or (isinstance(info, inspect.StrType) and info == inspect.StrType()):
        return KEY
    return str(_value(info, inside))


def _record(
    info: inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType, inside: Inside
) -> Any:
    """Return an object, or an array where msgspec reads one."""
    if info.cls in inside:
        raise NoSample(f"{info.cls.__name__} contains itself")
    tag_field, tag = (info.tag_field, info.tag) if isinstance(info, inspect.StructType) else (None, None)
    if isinstance(info, inspect.NamedTupleType) or (isinstance(info, inspect.StructType) and info.array_like):
        values = [_field(field, (*inside, info.cls)) for field in info.fields]
        return values if tag_field is None else [tag, *values]
    found = {} if tag_field is None else {tag_field: tag}
    for field in info.fields:
        try:
            found[field.encode_name] = _field(field, (*inside, info.cls))
        except NoSample:
            if field.required:
                raise
    return found


def _field(field: inspect.Field, inside: Inside) -> Any:
    if field.default is not msgspec.NODEFAULT and is_plain(field.default):
        return field.default
    try:
        return _value(field.type, inside)
    except NoSample as error:
        raise error.inside(field.name) from None


_PLAIN: dict[type[inspect.Type], Any] = {
    inspect.AnyType: TEXT,
    inspect.RawType: TEXT,
    inspect.NoneType: None,
    inspect.BoolType: True,
    inspect.BytesType: BASE64,
    inspect.ByteArrayType: BASE64,
    inspect.MemoryViewType: BASE64,
    inspect.DateType: DATE,
    inspect.TimeDeltaType: DURATION,
    inspect.UUIDType: UUID,
    inspect.DecimalType: DECIMAL,
}
