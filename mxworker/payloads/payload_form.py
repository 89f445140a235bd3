"""A form that payloads take, as an annotation asks for it: how to get there, and how to say why that failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_HEAD_CHARACTERS = 200
_TAIL_CHARACTERS = 90


@dataclass(frozen=True, slots=True)
class PayloadForm:
    """What reads a payload of this form from JSON, and what makes one of a value that a codec has read.

    Both raise DecodeError, or one of `refusals`, of which `explain` makes the text of a DecodeError. That way the usual
    delivery costs a single call, which may be a library's own.
    """

    from_json: Callable[[bytes], Any]
    from_value: Callable[[Any], Any]
    refusals: tuple[type[Exception], ...]
    explain: Callable[[Exception], str]


def bounded(text: str) -> str:
    """Return a text that may quote a body, on one line and of about 300 characters at most, cut in the middle.

    Libraries put the place last, and what they quote before it.
    """
    if len(text) > _HEAD_CHARACTERS + _TAIL_CHARACTERS:
        text = f"{text[:_HEAD_CHARACTERS]} [...] {text[-_TAIL_CHARACTERS:]}"
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )
