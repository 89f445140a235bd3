"""A content-type is read as Properties read it, and text in a listed charset, whatever a publisher wrote."""

from __future__ import annotations

import encodings
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.errors import DecodeError
from mxworker.payloads import content_types
from mxworker.payloads.content_types import NO_CONTENT_TYPE, content_type_of, is_json, parse, shown, text
from mxworker.wire.properties import Properties
from tests.rabbit.raw import HOSTILE, raw_properties

CHARSETS = sorted(content_types._CHARSETS)


@given(raw=st.binary(max_size=60))
def test_content_type_is_that_of_the_properties(raw: bytes) -> None:
    assert content_type_of(raw) == parse(Properties(raw).content_type or "")


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_hostile_properties_have_some_content_type(raw: bytes) -> None:
    assert content_type_of(raw) == parse(Properties(raw).content_type or "")


@pytest.mark.parametrize(
    ("written", "media_type", "charset"),
    [
        ("text/plain", "text/plain", None),
        (" Text/PLAIN ; Charset = ISO-8859-1 ", "text/plain", "iso-8859-1"),
        ('text/plain;format=flowed;charset="utf-8"', "text/plain", "utf-8"),
        ("text/plain; charset", "text/plain", ""),
        ("text/plain;;", "text/plain", None),
        ("", "", None),
        (" ; charset=latin1", "", "latin1"),
    ],
)
def test_media_type_and_charset_are_told_apart(written: str, media_type: str, charset: str | None) -> None:
    assert parse(written) == (media_type, charset)


def test_content_type_that_is_cut_short_is_none() -> None:
    assert content_type_of(raw_properties(content_type=b"text/plain")[:-1]) is NO_CONTENT_TYPE


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/json", True),
        ("application/vnd.shop.order+json", True),
        ("text/json", True),
        ("application/json5", False),
        ("text/plain", False),
        ("json", False),
    ],
)
def test_json_is_known_by_name(media_type: str, expected: bool) -> None:
    assert is_json(media_type) is expected


@pytest.mark.parametrize("charset", CHARSETS)
def test_python_has_the_charset(charset: str) -> None:
    assert text(b"", charset) == ""


@given(charset=st.sampled_from(CHARSETS), body=st.binary(max_size=60))
def test_any_bytes_are_text_in_a_charset_or_refused(charset: str, body: bytes) -> None:
    try:
        assert isinstance(text(body, charset), str)
    except DecodeError:
        pass


def test_text_is_in_its_charset() -> None:
    assert text(b"\xfc", "iso-8859-1") == "ü"
    assert text("ü".encode("utf-16"), "utf-16") == "ü"
    assert text(b"\xa1", "windows-874") == "ก"
    assert text("ü".encode()) == "ü"
    assert text("ü".encode("utf-16-le"), "utf-16-le") == "ü"
    assert text("ü".encode("utf-8-sig"), "utf-8-sig") == "ü"
    assert text(b"\xa4", "latin9") == "€"
    assert text(b"\x81", "ibm437") == "ü"


USUAL_NAMES = (
    *(
        "utf-8",
        "utf8",
        "us-ascii",
        "ascii",
        "latin1",
        "latin-1",
        "utf-16",
        "utf-16le",
        "utf-16be",
        "utf-32",
        "utf-32le",
    ),
    *(
        "iso-8859-1",
        "iso8859-15",
        "windows-874",
        "cp874",
        "windows-1252",
        "cp1250",
        "big5",
        "euc-jp",
        "euc-kr",
        "gb18030",
    ),
    *("gb2312", "gbk", "iso-2022-jp", "koi8-r", "koi8-u", "shift-jis"),
)


@pytest.mark.parametrize("charset", USUAL_NAMES)
def test_name_that_the_web_uses_is_known_with_hyphens_and_underscores(charset: str) -> None:
    assert text(b"ab\0\0", charset) == text(b"ab\0\0", charset.replace("-", "_"))


@pytest.mark.parametrize(
    "charset",
    [
        "",
        "klingon",
        "zlib",
        "rot13",
        "unicode_escape",
        "idna",
        "punycode",
        "utf-7",
        "utf7",
        "hex",
        "base64",
        "uu",
        "bz2",
    ],
)
def test_charset_that_is_not_listed_is_refused(charset: str) -> None:
    with pytest.raises(DecodeError, match=f"the content-type names the charset '{charset}', which is not supported"):
        text(b"", charset)


def test_python_is_never_asked_for_an_unknown_charset() -> None:
    """It would look for a module of that name, and keep the name for ever."""
    modules, names = set(sys.modules), set(encodings._cache)  # type: ignore[attr-defined]
    with pytest.raises(DecodeError):
        text(b"", "mxworker_made_this_up")
    assert set(sys.modules) == modules
    assert set(encodings._cache) == names  # type: ignore[attr-defined]


def test_what_a_publisher_wrote_is_shown_short_and_on_one_line() -> None:
    assert shown("x" * 1000) == repr("x" * 60 + "...")
    assert shown("a\n\udcff") == r"'a\n\udcff'"
