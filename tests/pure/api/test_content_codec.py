"""A codec serves one content type, and never is one that could run what a publisher sends."""

from __future__ import annotations

import functools
import marshal
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from mxworker.api.content_codec import ContentCodec
from mxworker.errors import DecodeError


def shout(body: bytes) -> str:
    return body.decode("ascii").upper()


def test_codec_reads_a_body() -> None:
    codec = ContentCodec("text/X-Shout", shout)
    assert codec.media_type == "text/x-shout"
    assert codec.read(b"hello") == "HELLO"


def test_whatever_the_function_raises_is_a_decode_error_that_says_what() -> None:
    with pytest.raises(DecodeError) as caught:
        ContentCodec("text/x-shout", shout).read(b"\xff")
    assert str(caught.value) == (
        "the body is not text/x-shout, as its content-type says: "
        "UnicodeDecodeError: 'ascii' codec can't decode byte 0xff in position 0: ordinal not in range(128)"
    )
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError()])
def test_no_exception_of_the_function_gets_past(error: Exception) -> None:
    def fail(body: bytes) -> None:
        raise error

    with pytest.raises(DecodeError, match=f"as its content-type says: {type(error).__name__}: "):
        ContentCodec("text/x-shout", fail).read(b"")


def test_what_the_function_says_of_a_body_is_cut() -> None:
    def fail(body: bytes) -> None:
        raise ValueError(body.decode() + "\nat the end")

    with pytest.raises(DecodeError) as caught:
        ContentCodec("text/x-shout", fail).read(b"S" * 10_000_000)
    assert len(str(caught.value)) < 500
    assert str(caught.value).endswith("S\N{REPLACEMENT CHARACTER}at the end")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-python-serialize",
        "application/pickle",
        "application/python-pickle",
        "application/X-Pickle",
        "application/vnd.pickle+gzip",
        "application/x-marshal",
    ],
)
def test_content_type_of_a_pickle_is_refused(content_type: str) -> None:
    with pytest.raises(ValueError, match="could run whatever code a publisher sends"):
        ContentCodec(content_type, shout)


@pytest.mark.parametrize(
    "function",
    [pickle.loads, pickle._loads, functools.partial(functools.partial(pickle.loads), encoding="bytes"), marshal.loads],  # type: ignore[attr-defined]
    ids=["pickle", "in Python", "partial", "marshal"],
)
def test_pickle_is_refused_under_any_content_type(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="could run whatever code a publisher sends"):
        ContentCodec("application/x-order", function)


def test_pickle_is_refused_for_sending_too() -> None:
    with pytest.raises(ValueError, match="_pickle is refused as codec of 'application/x-order'"):
        ContentCodec("application/x-order", shout, pickle.dumps)


@pytest.mark.parametrize(
    "content_type", ["", "msgpack", "text/*", "*/*", "text/plain; charset=utf-8", " text/plain", "a/b/c"]
)
def test_what_is_no_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(ValueError, match="is no content type like 'application/msgpack', without parameters"):
        ContentCodec(content_type, shout)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ValueError, match="must be functions, not 'utf-8'"):
        ContentCodec("text/x-shout", "utf-8")  # type: ignore[arg-type]
