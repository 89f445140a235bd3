"""What a body becomes is estimated close to what it does become, from above for what nobody sends in good faith."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import pytest

from mxworker.amqp.consuming.byte_budget import LARGE_BODY_BYTES, reserved_bytes
from mxworker.api.decoder import decoder_for
from mxworker.worker.handling.payload_size import expected_growth, payload_size
from tests.rabbit.raw import raw_properties

COUNT = 50_000
BODIES = {
    "records": [{"id": n + 1000, "name": f"user {n}", "is_active": True, "score": n + 0.5} for n in range(COUNT)],
    "texts": [f"{n:030d}" for n in range(COUNT)],
    "floats": [n + 0.25 for n in range(COUNT)],
    "empty objects": [{} for _ in range(COUNT)],
    "empty arrays": [[[]] for _ in range(COUNT)],
    "objects of one": [{"a": 0} for _ in range(COUNT)],
    "distinct keys": {f"{n:08d}": n + 1000 for n in range(COUNT)},
    "wide": [("a" * 20 + "\N{GRINNING FACE}") for _ in range(COUNT)],
    "one text": "x" * 2_000_000,
}


def memory_of(value: Any, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size_bytes = sys.getsizeof(value)
    match value:
        case dict():
            parts = sum(memory_of(key, seen) + memory_of(one, seen) for key, one in value.items())
        case list():
            parts = sum(memory_of(one, seen) for one in value)
        case _:
            parts = 0
    return size_bytes + parts


@pytest.mark.parametrize("name", BODIES)
def test_json_is_taken_for_what_it_becomes(name: str) -> None:
    body = orjson.dumps(BODIES[name])
    actual_bytes = memory_of(orjson.loads(body), set())
    estimated = payload_size(decoder_for(Any), b"\0\0", body)
    assert 0.8 * actual_bytes < estimated.held_bytes < 2.5 * actual_bytes
    assert estimated.peak_bytes >= estimated.held_bytes + len(body)


def test_marks_cannot_be_hidden_behind_a_long_head() -> None:
    body = b'["%s",%s]' % (b"x" * 1_000_000, b",".join([b"{}"] * 2_000_000))
    assert payload_size(decoder_for(dict), b"\0\0", body).held_bytes > 80_000_000


def test_text_is_taken_for_its_widest_character() -> None:
    decode = decoder_for(str)
    assert payload_size(decode, b"\0\0", b"a" * 1000).held_bytes == 1000
    assert payload_size(decode, b"\0\0", b"a" * 996 + "\N{GRINNING FACE}".encode()).held_bytes == 4000


def test_what_stays_as_it_is_takes_no_more() -> None:
    assert payload_size(decoder_for(bytes), b"\0\0", b"{}" * 1000).peak_bytes == 0
    assert expected_growth(decoder_for(bytes)) == 1


def test_other_forms_are_taken_for_ten_times_their_size() -> None:
    raw = raw_properties(content_type=b"application/msgpack")
    assert payload_size(decoder_for(dict), raw, b"\x80" * 1000).held_bytes == 10_000


def test_only_a_large_body_is_expected_to_grow() -> None:
    growth = expected_growth(decoder_for(dict))
    assert growth == 10
    assert reserved_bytes(LARGE_BODY_BYTES, growth) == LARGE_BODY_BYTES
    assert reserved_bytes(LARGE_BODY_BYTES + 1, growth) == 10 * (LARGE_BODY_BYTES + 1)
