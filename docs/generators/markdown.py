"""The parts of a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A bar in a cell is escaped, as it would end the cell."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(text: str) -> str:
    """Return a text as code, or nothing for nothing."""
    return f"`{text}`" if text else ""


def page(*parts: str) -> str:
    """Return a page of these parts, the first of which is its title."""
    return "\n\n".join((f"# {parts[0]}", *parts[1:])) + "\n"
