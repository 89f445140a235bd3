"""Make text that others wrote safe to show: one line of valid UTF-8, with a bounded length.

The text of a broker, a publisher, a file name or a peer on a socket may hold anything: an escape sequence that moves
the cursor, a line end with a line that looks like one of ours, or a control character that turns the direction of the
text. Such text goes through `foreign` where it enters, before it becomes part of a text of ours, because later a line
end of ours looks like one of theirs. The log makes each line printable once more when it writes the line.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CUT = "[cut]"
"""The mark where text was cut off."""
FOREIGN_CHARACTERS = 1000
"""The most characters shown of a foreign text, which is more than a short string of AMQP needs with all its escapes."""

# Characters that end a line, move the cursor, turn the direction of text or are invisible: the categories Cc, Cf, Zl
# and Zp of Unicode 16 (https://www.unicode.org/reports/tr44/#General_Category_Values), and the blank letters.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def well_formed(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot encode, replaced by escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Return `text` well-formed, with control and other hidden characters replaced by escapes."""
    return escaped(well_formed(text), lambda character: f"\\x{ord(character):02x}")


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """Return `text` with each hidden character replaced by what `escape` returns for it."""
    return _HIDDEN.sub(lambda found: escape(found[0]), text)


def foreign(text: object, most: int = FOREIGN_CHARACTERS) -> str:
    """Return a text of somebody else, printable, on one line and cut at `most` characters."""
    said = text if isinstance(text, str) else str(text)
    shown = printable(said[: most + 1])
    return shown if len(shown) <= most else shown[:most] + CUT


def by_line(text: str) -> str:
    """Return a text of ours with each of its lines made printable."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: object) -> str:
    """Return a text of ours, which may have several lines, on one line."""
    return "  ".join(filter(None, map(str.strip, str(text).splitlines())))


def head(text: str, size_bytes: int) -> str:
    """Return the well-formed `text`, or as much of its beginning as fits into `size_bytes` together with `CUT`."""
    raw = text.encode()
    return text if len(raw) <= size_bytes else raw[: size_bytes - len(CUT)].decode("utf-8", "ignore") + CUT


def tail(text: str, size_bytes: int) -> str:
    """Return the well-formed `text`, or as much of its end as fits into `size_bytes` together with `CUT`."""
    raw = text.encode()
    return text if len(raw) <= size_bytes else CUT + raw[len(raw) - size_bytes + len(CUT) :].decode("utf-8", "ignore")
