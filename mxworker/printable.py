"""Text that others wrote, made safe to show: on one line, valid UTF-8, no longer than there is room for.

Pure.
"""

from __future__ import annotations

CUT = "[cut]"
"""Stands where text is missing."""
CONTROLS = (*range(127, 160), 0x2028, 0x2029)
"""Code points that end a line or move a cursor somewhere; those below 32 do, too."""
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *CONTROLS)}


def well_formed(text: str) -> str:
    """Return `text` with lone surrogates, which have no UTF-8, written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Return `text` well-formed, with control characters written out as escapes."""
    return well_formed(text).translate(_ESCAPES)


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
