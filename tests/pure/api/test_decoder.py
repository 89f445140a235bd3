"""Annotation and content-type say what a handler takes; a body that does not give it is a DecodeError that says why."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NewType

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.api.content_codec import NO_CODECS, ContentCodec
from mxworker.api.decoder import decoder_for
from mxworker.api.delivery import Delivery
from mxworker.errors import AppLoadError, DecodeError
from tests.pure.api.test_delivery import delivery
from tests.rabbit.raw import NOT_UTF_8, raw_properties

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


MSGPACK = {"application/msgpack": ContentCodec("application/msgpack", msgspec.msgpack.decode)}


@dataclass
class Point:
    x: int
    y: int


class PydanticPoint(pydantic.BaseModel):
    x: int
    y: int


def decode(
    annotation: object,
    body: bytes,
    content_type: str | bytes | None = None,
    codecs: Mapping[str, ContentCodec] = NO_CODECS,
) -> object:
    written = content_type.encode() if isinstance(content_type, str) else content_type
    raw = raw_properties(delivery_mode=2) if written is None else raw_properties(content_type=written, delivery_mode=2)
    return decoder_for(annotation, codecs)(delivery(raw, body=b"compressed"), body)


def refusal(
    annotation: object,
    body: bytes,
    content_type: str | bytes | None = None,
    codecs: Mapping[str, ContentCodec] = NO_CODECS,
) -> str:
    """Return the text of the DecodeError that `body` ends in."""
    with pytest.raises(DecodeError) as caught:
        decode(annotation, body, content_type, codecs)
    return str(caught.value)


# ---- the annotation


def test_delivery_is_taken_whole() -> None:
    whole = delivery(body=b"\xff")
    assert decoder_for(Delivery)(whole, b"") is whole


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
    assert refusal(dict, body) == f"the body is not an object: it is {found}"


def test_other_json_than_an_array_is_named() -> None:
    assert refusal(list, b"{}") == "the body is not an array: it is an object"


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
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbfS3cr3t",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
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
        NewType("Body", bytes),
        Annotated[bytes, "a note"],
        NewType("Noted", Annotated[bytes, "a note"]),  # type: ignore[valid-newtype]
    ],
    ids=str,
)
def test_other_name_of_a_type_means_that_type(annotation: object) -> None:
    assert decode(annotation, b"\xff") == b"\xff"


@pytest.mark.parametrize("annotation", [Annotated[str, msgspec.Meta(max_length=3)], Annotated[bytes, msgspec.Meta()]])
def test_constraint_that_nothing_would_check_is_refused(annotation: object) -> None:
    with pytest.raises(AppLoadError, match="nothing would check the constraint"):
        decoder_for(annotation)


# ---- the content-type

JSON_TYPES = (None, "", "application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json", "text/json")
OTHER_TYPES = ("application/xml", "image/png", "application/x-python-serialize", "nonsense", NOT_UTF_8, b"\xff" * 255)


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_json_and_no_content_type_are_json(content_type: str | None) -> None:
    body = b'{"x": 1, "y": 2}'
    for annotation in (Any, dict, dict[str, int]):
        assert decode(annotation, body, content_type) == {"x": 1, "y": 2}
    assert decode(list, b"[1]", content_type) == [1]
    assert decode(Point, body, content_type) == Point(1, 2)


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/plain", "text/csv; charset=latin1"])
def test_who_asks_for_a_form_gets_it_of_bytes_and_text(content_type: str) -> None:
    assert decode(dict, b"{}", content_type) == {}
    assert decode(list, b"[]", content_type) == []
    assert decode(Point, b'{"x": 1, "y": 2}', content_type) == Point(1, 2)
    assert refusal(dict, b"S3cr3t", content_type).startswith("the body is not JSON: ")


def test_who_takes_anything_gets_text_and_bytes_as_the_content_type_says() -> None:
    assert decode(Any, b"[1]", "text/plain") == "[1]"
    assert decode(Any, b"\xfc", "text/html; charset=ISO-8859-1") == "ü"
    assert decode(Any, b"[1]", "application/octet-stream") == b"[1]"
    assert refusal(Any, b"\xfc", "text/plain") == "the body is not UTF-8: invalid start byte at byte 0"


def test_str_is_text_in_its_charset() -> None:
    assert decode(str, "ü".encode("utf-16"), "text/plain; charset=utf-16") == "ü"
    assert decode(str, "ü".encode(), "text/plain") == "ü"
    assert decode(str, '{"ü": 1}'.encode(), "application/json; charset=latin1") == '{"ü": 1}'
    assert decode(str, b"<\xfc/>", "application/xml; charset='ISO_8859-1'") == "<ü/>"
    assert decode(str, b"\x80", "application/octet-stream; charset=cp1252") == "€"
    assert refusal(str, b"\x80", "text/plain; charset=us-ascii").startswith("the body is not US-ASCII: ")
    assert refusal(str, b"", "text/plain; charset=rot13").startswith("the content-type names the charset 'rot13'")


@pytest.mark.parametrize("charset", ["latin-1", "ISO-8859-1", "utf-16", "utf-16le", "utf-32", "windows-1252"])
@pytest.mark.parametrize("media_type", ["application/json", "application/vnd.shop+json", "text/json"])
def test_json_that_is_not_utf_8_is_in_the_charset_that_is_named(media_type: str, charset: str) -> None:
    content_type = f"{media_type}; charset={charset}"
    for body in ('{"x": "ü"}'.encode(charset), '{"x": "ü"}'.encode()):
        for annotation in (dict, Any, dict[str, str]):
            assert decode(annotation, body, content_type) == {"x": "ü"}
        assert decode(str, body, content_type) == '{"x": "ü"}'


@pytest.mark.parametrize("content_type", [*JSON_TYPES, "application/json; charset=utf-8-sig", "text/csv"])
def test_byte_order_mark_before_json_is_ignored(content_type: str | None) -> None:
    body = b'\xef\xbb\xbf{"x": 1, "y": 2}'
    for annotation in (dict, dict[str, int], PydanticPoint):
        assert decode(annotation, body, content_type) == decode(annotation, body[3:], content_type)
    assert decode(Point, body, content_type) == Point(1, 2)
    assert decode(list, b"\xef\xbb\xbf[1]", content_type) == [1]
    assert refusal(dict, b"\xef\xbb\xbf[1]", content_type) == "the body is not an object: it is an array"
    assert decode(str, body, "text/plain") == "\ufeff" + body[3:].decode()
    assert decode(bytes, body, content_type) is body


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16be", "utf-32", "utf_32_le"])
def test_byte_order_mark_of_other_encodings_is_ignored_too(charset: str) -> None:
    body = ('{"x": 1}' if charset in ("utf-16", "utf-32") else '\ufeff{"x": 1}').encode(charset)
    assert decode(dict, body, f"application/json; charset={charset}") == {"x": 1}


def test_body_of_a_codec_is_not_read_as_json_behind_what_looks_like_a_mark() -> None:
    codecs = {"text/csv": ContentCodec("text/csv", lambda body: "no point")}
    assert "does not fit Point" in refusal(Point, b'\xef\xbb\xbf{"x": 1, "y": 2}', "text/csv", codecs)


def test_json_in_a_charset_that_does_not_fit_is_refused() -> None:
    assert decode(dict, '{"x": "ü"}'.encode(), "application/json; charset=klingon") == {"x": "ü"}
    for annotation in (dict, str, Any, Point):
        text = refusal(annotation, b'{"x": "\xfc"}', "application/json; charset=klingon")
        assert text == "the content-type names the charset 'klingon', which is not supported"
        assert "is not US-ASCII" in refusal(annotation, b'{"x": "\xfc"}', "application/json; charset=us-ascii")
    assert refusal(dict, b'{"x": "\xfc"}', "application/json; charset=utf-8").startswith("the body is not JSON")
    assert refusal(dict, b'{"x": "\xfc"}', "application/json").startswith("the body is not JSON")


def test_codec_of_json_gets_the_body_as_it_was_sent() -> None:
    codecs = {"application/json": ContentCodec("application/json", lambda body: {"body": body})}
    assert decode(Any, b"\xfc", "application/json; charset=latin-1", codecs) == {"body": b"\xfc"}


@pytest.mark.parametrize("content_type", OTHER_TYPES, ids=lambda content_type: repr(content_type[:30]))
def test_other_content_type_is_refused_by_who_needs_to_know_it(content_type: str | bytes) -> None:
    for annotation in (Any, dict, list, Point, dict[str, int]):
        text = refusal(annotation, b"{}", content_type)
        assert text.startswith("the content-type is '")
        assert text.endswith(", for which no codec is registered")
        assert len(text) < 500
        text.encode()  # what is logged must be encodable
    assert decode(bytes, b"\x80", content_type) == b"\x80"
    assert decode(str, b"{}", content_type) == "{}"


@pytest.mark.parametrize("content_type", ["application/msgpack", "Application/MsgPack; v=1"])
def test_codec_reads_its_content_type_and_the_annotation_checks_the_value(content_type: str) -> None:
    body = msgspec.msgpack.encode({"x": 1, "y": 2})
    for annotation in (Any, dict, dict[str, int]):
        assert decode(annotation, body, content_type, MSGPACK) == {"x": 1, "y": 2}
    assert decode(Point, body, content_type, MSGPACK) == Point(1, 2)
    assert decode(list, msgspec.msgpack.encode([1]), content_type, MSGPACK) == [1]
    assert decode(dict[int, int], msgspec.msgpack.encode({1: 2, "3": 4}), content_type, MSGPACK) == {1: 2, 3: 4}
    assert decode(bytes, body, content_type, MSGPACK) == body
    assert refusal(list, body, content_type, MSGPACK) == "the body is not an array: it is an object"
    assert (
        refusal(dict, msgspec.msgpack.encode(b""), content_type, MSGPACK) == "the body is not an object: it is a bytes"
    )
    wrong = msgspec.msgpack.encode({"x": 1, "y": "S3cr3t"})
    assert refusal(Point, wrong, content_type, MSGPACK) == (
        "the body does not fit Point: Expected `int`, got `str` - at `$.y`"
    )
    assert refusal(Point, b"", content_type, MSGPACK).startswith("the body is not application/msgpack")


def test_json_is_json_beside_other_codecs() -> None:
    assert decode(Any, b"{}", "application/json", MSGPACK) == {}
    assert decode(Any, b"{}", None, MSGPACK) == {}


def test_codec_of_json_text_or_bytes_takes_the_place_of_ours() -> None:
    for content_type in ("application/json", "text/plain", "application/octet-stream"):
        codecs = {content_type: ContentCodec(content_type, lambda body: {"x": len(body), "y": 0})}
        assert decode(Any, b"...", content_type, codecs) == {"x": 3, "y": 0}
        assert decode(Point, b"...", content_type, codecs) == Point(3, 0)


def test_codec_of_json_reads_bodies_without_a_content_type_and_other_json() -> None:
    codecs = {"application/json": ContentCodec("application/json", lambda body: {"x": len(body), "y": 0})}
    for content_type in JSON_TYPES:
        assert decode(Point, b"...", content_type, codecs) == Point(3, 0)


def test_first_property_that_is_no_content_type_is_none() -> None:
    raw = raw_properties(content_encoding=b"application/json", headers=b"\0\0\0\0")
    assert decoder_for(Any)(delivery(raw), b"{}") == {}
    raw = raw_properties(content_encoding=b"application/xml")
    assert decoder_for(Any)(delivery(raw), b"{}") == {}


@given(raw=st.binary(min_size=2, max_size=60), body=st.binary(max_size=20))
def test_any_properties_and_bytes_decode_or_are_refused(raw: bytes, body: bytes) -> None:
    for annotation in (str, dict, list, Any, Point):
        try:
            decoder_for(annotation, MSGPACK)(delivery(raw), body)
        except DecodeError:
            pass


def test_usual_delivery_is_not_taken_apart_to_decode_it() -> None:
    """It costs less than half of what is added to a delivery whose content-type has to be read: 0.1 us to 0.7 us."""
    body = b'{"x":1,"y":2}'
    alone_s = cost_s(msgspec.json.Decoder(Point).decode, body)
    decode = decoder_for(Point)
    read_s = cost_s(decode, delivery(raw_properties(content_type=b"Application/JSON")), body) - alone_s
    for usual in (raw_properties(content_type=b"application/json"), raw_properties(delivery_mode=2)):
        assert cost_s(decode, delivery(usual), body) - alone_s < read_s / 2


def cost_s(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds of many calls, at their quickest."""
    return min(timeit.repeat(lambda: function(*arguments), number=5_000, repeat=20))
