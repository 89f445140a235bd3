"""A number arrives as it was sent, or is refused: no form of payload makes another number of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.api.decoder import decoder_for
from mxworker.api.message import Encoder
from mxworker.errors import DecodeError
from tests.pure.api.test_delivery import delivery
from tests.rabbit.raw import raw_properties

BEYOND_64_BITS = (2**64, 2**64 + 1, -(2**63) - 1, 10**19 + 10**20, -(10**19), 10**100, -(10**307), int("9" * 308))
WITHIN_64_BITS = (2**64 - 1, 2**63, -(2**63), 10**19, 1_722_470_400_123_456_789, 0, -1)
CONTENT_TYPES = (None, b"application/json", b"application/vnd.shop+json", b"text/json; charset=utf-8")


@dataclass
class Line:
    value: int


class Typed(TypedDict):
    value: int


class Struct(msgspec.Struct):
    value: int


class StructOfAny(msgspec.Struct):
    value: Any


class Model(pydantic.BaseModel):
    value: int


class ModelOfAny(pydantic.BaseModel):
    value: Any


class Price(pydantic.BaseModel):
    value: Decimal


class StrictPrice(pydantic.BaseModel, strict=True):
    value: Decimal


class StructPrice(msgspec.Struct):
    value: Decimal


class Measure(pydantic.BaseModel):
    value: float


@pydantic.dataclasses.dataclass
class CheckedLine:
    value: int


INTEGER_FORMS: dict[str, tuple[object, Callable[[Any], Any]]] = {
    "dict": (dict, lambda payload: payload["value"]),
    "dict[str, Any]": (dict[str, Any], lambda payload: payload["value"]),
    "dict[str, int]": (dict[str, int], lambda payload: payload["value"]),
    "dict[str, object]": (dict[str, object], lambda payload: payload["value"]),
    "Any": (Any, lambda payload: payload["value"]),
    "dataclass": (Line, lambda payload: payload.value),
    "TypedDict": (Typed, lambda payload: payload["value"]),
    "Struct": (Struct, lambda payload: payload.value),
    "Struct of Any": (StructOfAny, lambda payload: payload.value),
    "model": (Model, lambda payload: payload.value),
    "model of Any": (ModelOfAny, lambda payload: payload.value),
    "pydantic's dataclass": (CheckedLine, lambda payload: payload.value),
}


def taken(annotation: object, body: bytes, content_type: bytes | None = None) -> Any:
    raw = raw_properties(delivery_mode=2) if content_type is None else raw_properties(content_type=content_type)
    return decoder_for(annotation)(delivery(raw), body)


def refusal(annotation: object, body: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        taken(annotation, body)
    return str(caught.value)


@pytest.mark.parametrize("number", BEYOND_64_BITS + WITHIN_64_BITS, ids=lambda number: f"{number:.4g}")
@pytest.mark.parametrize("form", INTEGER_FORMS)
def test_whole_number_of_any_size_is_exact(form: str, number: int) -> None:
    annotation, value_of = INTEGER_FORMS[form]
    for content_type in CONTENT_TYPES:
        value = value_of(taken(annotation, b'{"value": %d}' % number, content_type))
        assert (value, type(value)) == (number, int)


@pytest.mark.parametrize("number", BEYOND_64_BITS, ids=lambda number: f"{number:.4g}")
def test_whole_number_is_exact_wherever_it_stands(number: int) -> None:
    assert taken(Any, b"%d" % number) == number
    assert taken(list, b'[1.5, "a", {"b": [%d]}]' % number) == [1.5, "a", {"b": [number]}]
    assert taken(list[Any], b"[%d]" % number) == [number]
    assert taken(list[int], b"[%d]" % number) == [number]
    assert taken(dict, b'{"%d": %d}' % (number, number)) == {str(number): number}


@given(number=st.integers(-(2**80), 2**80), digits=st.text("0123456789", max_size=30))
def test_long_numbers_and_texts_of_digits_do_not_mix(number: int, digits: str) -> None:
    value = {"text": digits, "negative": f"-{digits}", "number": number, "double": number / 7, "more": [digits, number]}
    read = taken(dict, json.dumps(value).encode())
    assert read == value
    assert [type(one) for one in read.values()] == [type(one) for one in value.values()]


@pytest.mark.parametrize("number", [b"9" * 309, b"-" + b"9" * 5000, b"1e400", b"-1E+309", b"NaN", b"Infinity"])
@pytest.mark.parametrize("annotation", [dict, list, Any], ids=str)
def test_number_that_plain_json_cannot_hold_is_refused(annotation: object, number: bytes) -> None:
    assert refusal(annotation, b'{"a": %s}' % number).startswith("the body is not JSON: ")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python reads it")
def test_body_too_deep_for_an_exact_reading_is_refused() -> None:
    assert "nested too deeply" in refusal(Any, b"[" * 1020 + b"%d" % 2**70 + b"]" * 1020)


@pytest.mark.parametrize(
    "number",
    [
        "0.1",
        "0.1234567890123456789012345",
        "-0.10000000000000001",
        "12345678901234567.89",
        "9007199254740993.0",
        "9007199254740993e-3",
        "1E+2",
        "1" * 200 + ".5",
    ],
)
@pytest.mark.parametrize("annotation", [Price, StrictPrice, StructPrice])
def test_decimal_has_the_digits_that_were_sent(annotation: Any, number: str) -> None:
    for body in (f'{{"value": {number}}}', f'{{"value":{number}, "more": "1e400"}}', f'[{{"value":\n{number}}}]'):
        form = list[annotation] if body.startswith("[") else annotation
        payload = taken(form, body.encode())
        assert (payload[0] if isinstance(payload, list) else payload).value == Decimal(number)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("9007199254740993.0", 9007199254740993),
        ("9007199254740993e0", 9007199254740993),
        ("-123456789012345678.0", -123456789012345678),
        ("1E+2", 100),
        ("-0", 0),
        ("1.0", 1),
    ],
)
def test_int_of_a_model_is_the_number_that_was_sent(number: str, expected: int) -> None:
    assert taken(Model, f'{{"value": {number}}}'.encode()).value == expected


@pytest.mark.parametrize("number", ["0.99999999999999999", "1e-400", "1.00000000000000000001"])
def test_int_of_a_model_is_not_a_rounded_fraction(number: str) -> None:
    refusal(Model, f'{{"value": {number}}}'.encode())


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "1.8e308", "1" + "0" * 400 + ".0", "1e-400", "1e-999999999"])
@pytest.mark.parametrize("annotation", [Measure, Price, Model, ModelOfAny])
def test_number_beyond_the_range_of_a_double_is_no_infinity_and_no_zero(annotation: Any, number: str) -> None:
    assert "beyond the range of a double" in refusal(annotation, f'{{"value": {number}}}'.encode())


def test_double_is_a_double_however_many_digits_it_was_written_with() -> None:
    value = taken(Measure, b'{"value": 0.1000000000000000055511151231257827}').value
    assert (value, type(value)) == (0.1, float)


@pytest.mark.parametrize("end", [b"", b', "a": "\\ud800"}'])
def test_body_with_a_long_number_that_is_not_json_is_refused(end: bytes) -> None:
    body = b'{"value": 0.12345678901234567890' + end
    assert refusal(Price, body).startswith("the body does not fit Price: Invalid JSON")
    assert refusal(Price, body.decode().encode("utf-16")).startswith("the body does not fit Price: Invalid JSON")


# ---- sending


@dataclass
class Sent:
    value: object
    _private: int = 2**80


@pytest.mark.parametrize("number", BEYOND_64_BITS + WITHIN_64_BITS, ids=lambda number: f"{number:.4g}")
def test_whole_number_of_any_size_is_sent_as_it_is(number: int) -> None:
    for value in ({"value": number}, Line(number), Struct(number), Model(value=number), Sent(number)):
        body = Encoder().encode(value).body
        assert json.loads(body) == {"value": number}
        assert taken(dict, body) == {"value": number}
    assert json.loads(Encoder().encode([Line(1), (number,), {"a": Struct(number)}, 1.5, None]).body) == [
        {"value": 1},
        [number],
        {"a": {"value": number}},
        1.5,
        None,
    ]
