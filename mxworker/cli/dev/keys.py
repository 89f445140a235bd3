"""The keys of `mxworker dev`, and what is typed by accident. Pure."""

from __future__ import annotations

from enum import Enum

HINT = "Keys: p publishes a sample, r reloads, d dumps, o shows the page, q drains."

_ESCAPE = b"\x1b"
_MOST_AT_ONCE = 3  # nobody presses more keys between two looks, a tenth of a second apart: that is pasted text


class Key(Enum):
    """What a key asks for."""

    PUBLISH = "p"
    RELOAD = "r"
    DUMP = "d"
    PAGE = "o"
    DRAIN = "q"
    HELP = "h"
    BLANK = "\n"
    """Enter: an empty line, to set apart what is logged next."""


def keys_in(typed: bytes) -> list[Key]:
    """Return the keys in what was typed since the last look. Arrow keys and the like, and pasted text, are none."""
    if _ESCAPE in typed or len(typed) > _MOST_AT_ONCE:
        return []
    text = typed.decode("ascii", "replace").lower().replace("?", Key.HELP.value).replace("\r", Key.BLANK.value)
    known = {key.value: key for key in Key}
    return [known[character] for character in text if character in known]
