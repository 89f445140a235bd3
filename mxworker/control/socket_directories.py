"""Directories for control sockets: which of them can be trusted, and a spare one when our name in /tmp is taken.

In a directory that all users share, anybody can create the name that we would use. A service then creates a directory
with a name that nobody can predict, and clients find it by the beginning of its name and by its owner.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mxworker.system.file_access import is_given_directory


def spare_for(place: Path) -> Path:
    """Return a spare directory of ours beside `place`, an existing one or a new one. Raises OSError."""
    found = spares_of(place)
    return found[0] if found else Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent))


def spares_of(place: Path) -> list[Path]:
    """Return the directories that `spare_for` has made. There are none where others cannot create names."""
    if not is_for_all(place.parent):
        return []
    return sorted(path for path in place.parent.glob(f"{place.name}-*") if _is_ours(path))


def is_for_all(directory: Path) -> bool:
    """Tell whether everybody can create a name in a directory, and nobody can move the names of others."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH and mode & stat.S_ISVTX)


def to_look_in(places: Sequence[Path]) -> Iterator[Path]:
    """Yield the places in which a socket can be trusted, each followed by its spares. A missing place is yielded too.

    A place that another user made is left out, because a service that answers there might be theirs.
    """
    for place in places:
        if not place.exists() or is_given_directory(place):
            yield place
        yield from spares_of(place)


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
