"""Save a file so that those who watch it, or wait for it, never see a part of it."""

from __future__ import annotations

from pathlib import Path


def save_by_rename(file: Path, text: str) -> None:
    """Write a draft, then rename it over `file`.

    The draft stands beside the file. Its name ends in `.draft`, so that it is neither a module nor a configuration.
    """
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(text)
    draft.rename(file)
