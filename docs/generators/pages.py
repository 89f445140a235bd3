"""Which pages are made, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generators import command_line, exit_codes, headers, metrics, public_names, settings

FOLDER = Path(__file__).parents[1] / "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "command-line.md": command_line.page,
    "exit-codes.md": exit_codes.page,
    "headers.md": headers.page,
    "metrics.md": metrics.page,
    "public-names.md": public_names.page,
    "settings.md": settings.page,
}
_NOTE = "<!-- Made by `make docs` from the code: change it there. -->"


def text_of(name: str) -> str:
    """Return a page as its file has it: with a note below the title for those who would change the file."""
    title, _, text = PAGES[name]().partition("\n")
    return f"{title}\n\n{_NOTE}\n{text}"
