"""Letters in a file: a JSON object on each line, with the facts for people, and all that makes the letter again.

`properties_base64` and `route_base64` are as on the wire. The body is in `body` when it is UTF-8, and otherwise in
`body_base64`. Nothing else is read back.

Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from mxworker.errors import DecodeError
from mxworker.letters.letter import Letter, Original
from mxworker.letters.texts import body_json, letter_json
from mxworker.wire.properties import split

FORMAT = 1


def to_line(letter: Letter, original: Original) -> str:
    """Return a letter as a line, without a line end, in ASCII."""
    return json.dumps(
        {
            "format": FORMAT,
            **letter_json(letter),
            "properties_base64": _encoded(original.raw_properties),
            "route_base64": _encoded(original.raw_route),
            **body_json(original.body),
        }
    )


def from_line(line: bytes) -> Original:
    """Return the letter of a line. Raises DecodeError, which says what is wrong with it."""
    try:
        found = json.loads(line)
    except ValueError:
        raise DecodeError("it is no JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DecodeError(f"it is no letter in format {FORMAT}, as 'mxworker dlq export' writes it")
    body = found["body"].encode() if isinstance(found.get("body"), str) else _decoded(found, "body_base64")
    original = Original(body, _decoded(found, "properties_base64"), _decoded(found, "route_base64"))
    split(original.raw_properties)
    return original


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(found: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(found[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise DecodeError(f"its {name} is missing, or no Base64") from None
