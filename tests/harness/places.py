"""Directories that other users can enter, which those below pytest's own temporary directory are not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_directory(mode: int = 0o755) -> Iterator[Path]:
    """Make a directory with these permissions, for as long as the block runs."""
    place = Path(tempfile.mkdtemp(prefix="mx-"))
    place.chmod(mode)
    try:
        yield place
    finally:
        shutil.rmtree(place)
