"""An estimate of the memory that a payload takes, made from its body before it is decoded.

Small bodies are not estimated: bodies of up to 64 KiB, for all deliveries that a process handles at once, take little
of its budget. The size of a large payload depends on its content. Measured with orjson, as a multiple of the text: 1
for one long string, 5 for the records of a table, 14 for objects of two numbers, 30 for nested empty arrays, and 2 to 8
more during decoding. So the punctuation of JSON is counted, in pieces that are chosen at random, so that no publisher
can build a body around them.

The estimate for other formats than JSON is ten times their size; for text it depends on the widest character.

Pure.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from mxworker.api.decoder import Decoder, whole_body, whole_delivery, whole_text
from mxworker.payloads.content_types import BYTES, content_type_of, is_json, is_text

_EXPECTED_GROWTH = 10  # for records with ten fields or less, during decoding

_PIECE_BYTES = 4096
_MOST_PIECES = 64  # 0.1 ms for each four
_PIECES_READ = 4  # whose keys are compared, which is slower than counting
_MARKS = b'{}[,:"'
_NO_MARKS = bytes(octet for octet in range(256) if octet not in _MARKS)
_KEY = re.compile(rb'"([^"\\]{0,64})":')

# The sizes of CPython's objects, with the header of the garbage collector, and rounded as pymalloc does.
_EMPTY_DICT_BYTES = 64
_DICT_BYTES = 200  # of up to five keys
_KEY_BYTES = 36  # for each further key
_LIST_BYTES = 72
_ELEMENT_BYTES = 9  # a pointer, with what a list reserves
_NUMBER_BYTES = 32
_STRING_BYTES = 64  # without its characters
_TOKEN_BYTES = 16  # of yyjson, while orjson reads
_WIDEST_CHARACTER_BYTES = 4


class PayloadSize(NamedTuple):
    """The bytes of a payload, without those of its body: at most during decoding, and afterwards."""

    peak_bytes: int
    held_bytes: int


def expected_growth(decode: Decoder) -> int:
    """Return the expected memory of a large body and its payload, as a multiple of the body."""
    if decode is whole_delivery or decode is whole_body:
        return 1
    return 2 if decode is whole_text else _EXPECTED_GROWTH


def payload_size(decode: Decoder, raw_properties: bytes, body: bytes) -> PayloadSize:
    """Estimate the payload that `decode` makes of a decompressed body."""
    if decode is whole_delivery or decode is whole_body:
        return PayloadSize(0, 0)
    media_type, _ = content_type_of(raw_properties)
    if decode is whole_text or (is_text(media_type) and not is_json(media_type)):
        return _text_size(body)
    if media_type in ("", BYTES) or is_json(media_type):
        return _json_size(body)
    size_bytes = _EXPECTED_GROWTH * len(body)
    return PayloadSize(size_bytes, size_bytes)


def _text_size(body: bytes) -> PayloadSize:
    size_bytes = len(body) * (1 if body.isascii() else _WIDEST_CHARACTER_BYTES)
    return PayloadSize(size_bytes, size_bytes)


def _json_size(body: bytes) -> PayloadSize:
    pieces = _pieces(body)
    seen_bytes = sum(map(len, pieces))
    marks = b" ".join(piece.translate(None, _NO_MARKS) for piece in pieces)
    empty = marks.count(b"{}")
    dicts = _count(marks, b"{") - empty
    lists, commas, colons = (_count(marks, mark) for mark in (b"[", b",", b":"))
    keys = min(colons, _count(marks, b'"') // 2)
    strings = _count(marks, b'"') // 2 - keys
    values = commas + dicts + lists  # no fewer: a container has one more than commas
    numbers = max(0, values - dicts - lists - empty - strings)
    elements = max(0, values - keys)
    tree_bytes = (
        empty * _EMPTY_DICT_BYTES
        + dicts * _DICT_BYTES
        + max(0, keys - 5 * dicts) * _KEY_BYTES
        + lists * _LIST_BYTES
        + elements * _ELEMENT_BYTES
        + numbers * _NUMBER_BYTES
        + (strings + keys * _distinct(pieces[:_PIECES_READ])) * _STRING_BYTES
    )
    token_bytes = (values + keys + empty) * _TOKEN_BYTES
    scale = len(body) / seen_bytes if seen_bytes else 0.0
    wide = 1 if body.isascii() and b"\\u" not in body else _WIDEST_CHARACTER_BYTES
    held_bytes = int(tree_bytes * scale) + wide * len(body)
    return PayloadSize(held_bytes + int(token_bytes * scale) + len(body), held_bytes)


def _count(marks: bytes, mark: bytes) -> int:
    """Return how often a mark occurs. Four times as fast as `bytes.count` for frequent marks."""
    return len(marks) - len(marks.translate(None, mark))


def _distinct(pieces: list[bytes]) -> float:
    """Return the share of distinct keys, since orjson keeps equal keys once."""
    keys = [key for piece in pieces for key in _KEY.findall(piece)]
    return len(set(keys)) / len(keys) if keys else 1.0


def _pieces(body: bytes) -> list[bytes]:
    """Return pieces at random positions of a body, together a quarter of it, or less of a very large one."""
    count = min(_MOST_PIECES, max(_PIECES_READ, len(body) // (4 * _PIECE_BYTES)))
    if len(body) <= count * _PIECE_BYTES:
        return [body]
    starts = (random.randrange(len(body) - _PIECE_BYTES) for _ in range(count))  # noqa: S311
    return [body[start : start + _PIECE_BYTES] for start in starts]
