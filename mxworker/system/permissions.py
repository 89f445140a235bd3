"""Decide who besides us could change or read a file, by the owners and modes on the path to it.

A way is every entry that the kernel looks at from the root directory to the file: directories, symbolic links, and the
targets of the links. Pure: `file_access` reads the disk.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or symbolic link. The directory that contains it is an entry too, and never a link."""

    path: Path
    mode: int
    uid: int
    gid: int
    has_acl: bool = False
    """Whether it has an access control list. The group bits of `mode` then bound what anybody in the list may do."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """The users that may do everything, and the groups that have no other members."""

    uids: frozenset[int]
    gids: frozenset[int] = frozenset()


class Who(Enum):
    """In what role somebody else has access."""

    OWNER = "owner"
    GROUP = "group"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True)
class Access:
    """The access that somebody else has, by the owner and mode of `entry`."""

    entry: Entry
    who: Who


def changer(way: Sequence[Entry], trusted: Trusted) -> Access | None:
    """Return who else could change the last entry, replace it, or add to it; None when nobody could.

    In a directory with the sticky bit, such as /tmp, nobody can move the files of others (inode(7)), but anybody can
    add files. So such a directory may be on the way, but not its last entry.
    """
    entries = {entry.path: entry for entry in way}
    for entry in way:
        if stat.S_ISLNK(entry.mode):  # the mode of a link means nothing, and its target cannot be changed
            if entry.uid not in trusted.uids and _writer(entries[entry.path.parent], trusted) is not None:
                return Access(entry, Who.OWNER)
        elif entry.uid not in trusted.uids:
            return Access(entry, Who.OWNER)
        elif (who := _writer(entry, trusted)) is not None and not (_is_sticky(entry) and entry is not way[-1]):
            return Access(entry, who)
    return None


def reader(way: Sequence[Entry], trusted: Trusted) -> Access | None:
    """Return who else could read the last entry; None when its mode or the mode of a directory lets nobody.

    A group in the answer is that of the file, or the only group that may enter a directory above it.

    The directories that contain the file count, and not the links that led to it, because others may go around a link.
    Owners are not looked at here: see `changer`.
    """
    file = way[-1]
    closed = [entry for entry in way if entry.path in file.path.parents and not entry.mode & stat.S_IXOTH]
    if file.mode & stat.S_IROTH:
        if not closed:
            return Access(file, Who.EVERYBODY)
        return Access(closed[0], Who.GROUP) if all(_is_open_to_group(entry, trusted) for entry in closed) else None
    if not file.mode & stat.S_IRGRP or not _is_shared(file, trusted):
        return None
    is_open = all(entry.gid == file.gid and entry.mode & stat.S_IXGRP for entry in closed)
    return Access(file, Who.GROUP) if is_open else None


def is_given(way: Sequence[Entry], trusted: Trusted) -> bool:
    """Tell whether we or root put the last entry, a directory, where it is, whoever owns it and may write to it.

    It is ours or root's, or nobody but us and root could have put it there and given it to its owner.
    """
    place = replace(way[-1], mode=stat.S_IFDIR | stat.S_IRWXU)
    if changer((*way[:-1], place), trusted) is None:
        return True
    parent = next((entry for entry in way if entry.path == place.path.parent), place)
    return _writer(parent, trusted) is None and changer((*way[:-1], replace(place, uid=0)), trusted) is None


def _writer(entry: Entry, trusted: Trusted) -> Who | None:
    if entry.mode & stat.S_IWOTH:
        return Who.EVERYBODY
    return Who.GROUP if entry.mode & stat.S_IWGRP and _is_shared(entry, trusted) else None


def _is_shared(entry: Entry, trusted: Trusted) -> bool:
    """Tell whether the group bits give access to somebody else."""
    return entry.has_acl or entry.gid not in trusted.gids


def _is_open_to_group(entry: Entry, trusted: Trusted) -> bool:
    return bool(entry.mode & stat.S_IXGRP) and _is_shared(entry, trusted)


def _is_sticky(entry: Entry) -> bool:
    return stat.S_ISDIR(entry.mode) and bool(entry.mode & stat.S_ISVTX)
