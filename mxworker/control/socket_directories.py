"""Directories for control sockets: which of them can be believed, and one that takes the place of a name taken in /tmp.

In a directory that is there for all, anybody can make the name that we would use. A service then takes one with a name
that nobody can know before, and those who ask find it by its beginning and its owner.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mxworker.system.file_access import is_given_directory


def spare_for(place: Path) -> Path:
    """Return a directory of ours beside `place`, as the last one that was made, or a new one. Raises OSError."""
    found = spares_of(place)
    return found[0] if found else Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent))


def spares_of(place: Path) -> list[Path]:
    """Return the directories that `spare_for` has made; none where others cannot make names."""
    if not is_for_all(place.parent):
        return []
    return sorted(path for path in place.parent.glob(f"{place.name}-*") if _is_ours(path))


def is_for_all(directory: Path) -> bool:
    """Whether everybody can make a name in it, and nobody can move another's."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH and mode & stat.S_ISVTX)


def to_look_in(places: Sequence[Path]) -> Iterator[Path]:
    """Yield the places in which a socket can be believed, and after each its spares. One that is missing is among them.

    Not yielded is what another user has made: a service that was asked there might be theirs.
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
