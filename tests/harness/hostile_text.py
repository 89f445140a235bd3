"""What a hostile neighbour says, and how to find that a terminal would have done what it says."""

from __future__ import annotations

import json
import unicodedata

HOSTILE = (
    "bad\x1b]0;owned\x07\x1b[2J\r\nReady in 0.01 s. Ctrl-C drains.\nError: forged\x08\x7f\x9b31m\x85"
    "\u202ecod.exe\u2066\u2069\u200b\u200f\u2028\u2029\ufeff\U000e0041\tend"
)
"""Escapes, line ends with lines that look like ours, direction and width: 120 bytes, for a short string."""

FORGED = ("Ready in 0.01 s.", "Error: forged")
"""What none of our lines begins with."""


def hidden_in(text: str) -> set[str]:
    """Return what a reader does not see or a terminal acts on, but for the line ends."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {character for character in text if unicodedata.category(character) in kinds} - {"\n"}


def assert_harmless(text: str) -> None:
    """Check what is written: nothing hidden, and no line that is not ours."""
    assert hidden_in(text) == set()
    assert not [line for line in text.split("\n") if line.startswith(FORGED)], text


def assert_harmless_json(text: str) -> None:
    """Check lines of JSON, also for a reader that has what they hold on a terminal."""
    assert_harmless(text)
    for line in filter(None, text.split("\n")):
        for name, value in json.loads(line).items():
            if name == "traceback":  # whose lines are not ours alone
                assert hidden_in(value) == set()
            elif isinstance(value, str):
                assert_harmless(value)
