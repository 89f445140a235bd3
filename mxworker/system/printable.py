"""Text that others wrote, made safe to show: on one line, valid UTF-8, no longer than there is room for.

A broker, a publisher, a file's name or whoever answers on a socket may say anything: an escape sequence that moves the
cursor, a line end and a line that looks like one of ours, a control that turns the direction of what follows around.
Such text is made `foreign` where it enters, before it becomes part of a text of ours; after that nobody can tell a line
end of ours from one of theirs. What is written makes each line printable once more.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CUT = "[cut]"
"""Stands where text is missing."""
FOREIGN_CHARACTERS = 1000
"""How much is shown of what others say: more than a short string of AMQP holds, whatever is in it."""

# What ends a line, moves a cursor, turns the direction of text around or is not seen: the categories Cc, Cf, Zl and Zp
# of Unicode 16 (https://www.unicode.org/reports/tr44/#General_Category_Values) and the letters that look like nothing.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def well_formed(text: str) -> str:
    """Return `text` with lone surrogates, which have no UTF-8, written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Return `text` well-formed, with control and other hidden characters written out as escapes."""
    return escaped(well_formed(text), lambda character: f"\\x{ord(character):02x}")


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """Return `text` with `escape` of each hidden character in its place."""
    return _HIDDEN.sub(lambda found: escape(found[0]), text)


def foreign(text: object, most: int = FOREIGN_CHARACTERS) -> str:
    """Return what somebody else says, printable, on one line and cut at `most` characters."""
    said = text if isinstance(text, str) else str(text)
    shown = printable(said[: most + 1])
    return shown if len(shown) <= most else shown[:most] + CUT


def by_line(text: str) -> str:
    """Return a text of ours with its lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: object) -> str:
    """Return what `text` says on one line: a text of ours may have several."""
    return "  ".join(filter(None, map(str.strip, str(text).splitlines())))


def head(text: str, size_bytes: int) -> str:
    """Return well-formed `text`, or as much of its beginning as fits into `size_bytes` with a mark of the cut."""
    raw = text.encode()
    return text if len(raw) <= size_bytes else raw[: size_bytes - len(CUT)].decode("utf-8", "ignore") + CUT


def tail(text: str, size_bytes: int) -> str:
    """Return well-formed `text`, or as much of its end as fits into `size_bytes` with a mark of the cut."""
    raw = text.encode()
    return text if len(raw) <= size_bytes else CUT + raw[len(raw) - size_bytes + len(CUT) :].decode("utf-8", "ignore")
