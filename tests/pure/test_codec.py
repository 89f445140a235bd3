"""An annotation says what a handler takes; what cannot be made of a body is a DecodeError that says why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.codec import decoder_for
from mxworker.delivery import Delivery
from mxworker.errors import DecodeError
from tests.pure.test_delivery import delivery

JSON = (dict, list, Any, object, dict[str, Any], dict[str, object], list[Any], list[object])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def decode(annotation: object, body: bytes) -> object:
    decoder = decoder_for(annotation)
    assert decoder is not None
    return decoder(delivery(body=b"compressed"), body)


def refusal(annotation: object, body: bytes) -> str:
    """Return the text of the DecodeError that `body` ends in."""
    with pytest.raises(DecodeError) as caught:
        decode(annotation, body)
    return str(caught.value)


def test_delivery_is_taken_whole() -> None:
    decoder = decoder_for(Delivery)
    assert decoder is not None
    whole = delivery(body=b"\xff")
    assert decoder(whole, b"") is whole


@given(body=st.binary(max_size=100))
def test_bytes_are_the_body(body: bytes) -> None:
    assert decode(bytes, body) is body


@given(text=st.text(max_size=100))
def test_str_is_utf_8(text: str) -> None:
    assert decode(str, text.encode()) == text


@given(value=json_values)
def test_any_is_json(value: object) -> None:
    assert decode(Any, json.dumps(value).encode()) == value
    assert decode(object, json.dumps(value).encode()) == value


@pytest.mark.parametrize("annotation", [dict, dict[str, Any], dict[str, object]])
def test_dict_is_a_json_object(annotation: object) -> None:
    assert decode(annotation, b'{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize("annotation", [list, list[Any], list[object]])
def test_list_is_a_json_array(annotation: object) -> None:
    assert decode(annotation, b'[{"a": 1}]') == [{"a": 1}]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"[]", "an array"),
        (b'"S3cr3t"', "a string"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_other_json_than_an_object_is_named(body: bytes, found: str) -> None:
    assert refusal(dict, body) == f"the body is JSON, but not an object: it is {found}"


def test_other_json_than_an_array_is_named() -> None:
    assert refusal(list, b"{}") == "the body is JSON, but not an array: it is an object"


def test_text_that_is_not_utf_8_says_where() -> None:
    assert refusal(str, b"ab\xff") == "the body is not UTF-8: invalid start byte at byte 2"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"S3cr3t",
        b'{"a": }',
        b"{",
        b'"\xff"',
        b'"\\ud800"',
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00",
        b"\xef\xbb\xbf{}",
        b"[1] [2]",
    ],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("annotation", JSON, ids=str)
def test_nasty_documents_are_refused_without_showing_the_body(annotation: object, body: bytes) -> None:
    text = refusal(annotation, body)
    assert text.startswith("the body is not JSON: ")
    assert "S3cr3t" not in text
    assert "at byte" in text


@given(body=st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    for annotation in (str, dict, list, Any):
        try:
            decode(annotation, body)
        except DecodeError:
            pass


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        float,
        None,
        tuple,
        dict[str, int],
        dict[int, Any],
        list[int],
        Mapping[str, Any],
        Sequence[Any],
        dict | None,
        bytes | str,
        Literal["a"],
        Literal[[1]],  # its argument cannot be hashed
        Annotated[dict, []],
        "dict",
        [],
        Exception,
    ],
    ids=str,
)
def test_annotation_that_nothing_would_check_has_no_decoder(annotation: object) -> None:
    assert decoder_for(annotation) is None
