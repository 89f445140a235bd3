"""A payload form: how a body is decoded to the type of an annotation, and how a failure is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_HEAD_CHARACTERS = 200
_TAIL_CHARACTERS = 90


@dataclass(frozen=True, slots=True)
class PayloadForm:
    """`from_json` reads a payload from JSON; `from_value` makes one from a value that an application's codec has read.

    Both raise DecodeError or one of `refusals`; `explain` turns those into the text of a DecodeError. So the usual
    delivery costs a single call, which may be a function of a library. `library` is the name of that library.
    """

    from_json: Callable[[bytes], Any]
    from_value: Callable[[Any], Any]
    refusals: tuple[type[Exception], ...]
    explain: Callable[[Exception], str]
    library: str = "orjson"


def bounded(text: str) -> str:
    """Return a text that may quote a body on one line, cut in the middle to about 300 characters.

    The end is kept because libraries put the place of an error there, after the quoted text.
    """
    if len(text) > _HEAD_CHARACTERS + _TAIL_CHARACTERS:
        text = f"{text[:_HEAD_CHARACTERS]} [...] {text[-_TAIL_CHARACTERS:]}"
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )
