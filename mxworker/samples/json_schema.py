"""Samples of a JSON schema, as pydantic writes it for its models: 2020-12, with all definitions under `$defs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mxworker.payloads.serializers import to_json
from mxworker.samples.values import (
    BASE64,
    DATE,
    DATE_TIME,
    DECIMAL,
    DURATION,
    TEXT,
    TIME,
    UUID,
    NoSample,
    first_of,
    is_plain,
    real,
    text,
    unmatched,
    whole,
)

Schema = Mapping[str, Any]
Inside = tuple[str, ...]
"""The definitions around a part. One that comes a second time would never end."""

_KEY = "1"  # a key that is a text and a number, because the schema does not say which of them the model reads
_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date-time": DATE_TIME,
        "date": DATE,
        "time": TIME,
        "duration": DURATION,
        "decimal": DECIMAL,
        "uuid": UUID,
        "uuid1": "8c3a1d9e-0001-11ef-9262-0242ac120002",
        "uuid3": "a3bb189e-8bf9-3888-9912-ace4e6543002",
        "uuid4": UUID,
        "uuid5": "a6edc906-2f9f-5fb2-a373-efac406f0ef2",
        "uuid6": "1ef00018-c3a1-6d9e-9262-0242ac120002",
        "uuid7": "018f3c5e-7b1a-7c3d-8e4f-1a2b3c4d5e6f",
        "uuid8": "8c3a1d9e-0001-8abc-9262-0242ac120002",
        "email": "somebody@example.com",
        "name-email": "Somebody <somebody@example.com>",
        "uri": "https://example.com/",
        "hostname": "example.com",
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "ipvanyaddress": "192.0.2.1",
        "ipv4network": "192.0.2.0/24",
        "ipv6network": "2001:db8::/32",
        "ipvanynetwork": "192.0.2.0/24",
        "ipv4interface": "192.0.2.1/24",
        "ipv6interface": "2001:db8::1/32",
        "ipvanyinterface": "192.0.2.1/24",
        "byte": BASE64,
        "base64": BASE64,
        "base64url": BASE64,
    }
)


def sample_of_schema(schema: Schema) -> Any:
    """Return a value for orjson that fits `schema`. Raises NoSample."""
    return _Sampler(schema).value(schema, ())


class _Sampler:
    """The samples of one schema, and of the definitions in it."""

    def __init__(self, schema: Schema) -> None:
        self._definitions: Mapping[str, Schema] = schema.get("$defs", {})
        self._by_type: Mapping[str, Callable[[Schema, Inside], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._text,
            "integer": lambda schema, _: _whole(schema),
            "number": lambda schema, _: _real(schema),
            "boolean": lambda _schema, _inside: True,
            "null": lambda _schema, _inside: None,
        }

    def value(self, schema: Schema | bool, inside: Inside) -> Any:
        """Return the sample of a part. Raises NoSample."""
        if isinstance(schema, bool):
            schema = {}
        if schema.get("examples"):
            return schema["examples"][0]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "default" in schema and is_plain(schema["default"]):
            return schema["default"]
        if "$ref" in schema:
            return self._referred(schema["$ref"], inside)
        if "allOf" in schema:
            return self.value({key: value for part in schema["allOf"] for key, value in part.items()}, inside)
        alternatives = schema.get("anyOf") or schema.get("oneOf")
        if alternatives:
            null_last = sorted(alternatives, key=lambda part: part.get("type") == "null")
            return first_of(null_last, lambda part: self.value(part, inside))
        make = self._by_type.get(schema.get("type", "string" if "format" in schema else ""))
        return TEXT if make is None else make(schema, inside)

    def _referred(self, reference: str, inside: Inside) -> Any:
        name = reference.rpartition("/")[2]
        if name in inside:
            raise NoSample(f"{name} contains itself")
        return self.value(self._definitions[name], (*inside, name))

    def _object(self, schema: Schema, inside: Inside) -> dict[str, Any]:
        found = {}
        for name, part in schema.get("properties", {}).items():
            try:
                found[name] = self.value(part, inside)
            except NoSample as error:
                if name in schema.get("required", ()):
                    raise error.inside(name) from None
        return found or self._mapping(schema, inside)

    def _mapping(self, schema: Schema, inside: Inside) -> dict[str, Any]:
        values = schema.get("additionalProperties", "properties" not in schema)
        if values is False:
            return {}
        try:
            key = self.value(schema["propertyNames"], inside) if "propertyNames" in schema else _KEY
            return {str(key): self.value(values, inside)}
        except NoSample:
            if schema.get("minProperties"):
                raise
            return {}

    def _array(self, schema: Schema, inside: Inside) -> list[Any]:
        first = [self.value(part, inside) for part in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0)
        items = schema.get("items", not first)
        if items is False or len(first) >= max(least, 1):
            return first
        try:
            return first + [self.value(items, inside)] * max(least - len(first), 1)
        except NoSample:
            if least > len(first):
                raise
            return first

    def _text(self, schema: Schema, inside: Inside) -> str:
        known = _FORMATS.get(schema.get("format", ""))
        if known is not None:
            return known
        if "contentSchema" in schema:
            return to_json(self.value(schema["contentSchema"], inside)).decode()
        if "pattern" in schema:
            raise unmatched(schema["pattern"])
        return text(schema.get("minLength"), schema.get("maxLength"))


def _whole(schema: Schema) -> int:
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least = schema.get("minimum") if above is None else above + 1
    most = schema.get("maximum") if below is None else below - 1
    return whole(least, most, schema.get("multipleOf"))


def _real(schema: Schema) -> float:
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    return real(*map(schema.get, bounds))
