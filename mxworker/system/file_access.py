"""Looks at owners and modes on the way to a file, for `permissions` to decide, and puts into words what it found."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from mxworker.system.permissions import Access, Entry, Trusted, Who, changer, is_given, reader
from mxworker.system.printable import foreign

_LINKS = 40  # as many as the kernel follows, path_resolution(7)
_ROOT_GROUP = 0  # its members are root's choice
_ACL = "system.posix_acl_access"


def changer_of(path: Path) -> Access | None:
    """Return who else could change `path`, or put another in its place; None when nobody could. Raises OSError."""
    return _else(changer, way_to(path))


def reader_of(path: Path) -> Access | None:
    """Return who else could read `path`; None when nobody could. Raises OSError."""
    return _else(reader, way_to(path))


def is_given_directory(directory: Path) -> bool:
    """Whether a directory is where it is by our will or root's, whoever owns it; not when it cannot be looked at."""
    try:
        way = way_to(directory)
    except OSError:
        return False
    return is_given(way, _users()) or is_given(way, _users_and_groups())


def _else(find: Callable[[Sequence[Entry], Trusted], Access | None], way: Sequence[Entry]) -> Access | None:
    """Return who else it is. The groups are asked about when they matter: where users are many, that takes its time."""
    return find(way, _users()) and find(way, _users_and_groups())


def way_to(path: Path) -> tuple[Entry, ...]:
    """Return every entry that leads to `path`, itself included. Raises OSError when one is missing.

    A file within a file, such as a module in a zip archive, is that file.
    """
    root = Path("/")
    path = path if path.is_absolute() else Path.cwd() / path  # the current directory may have been removed
    here, ahead = root, list(reversed(path.parts[1:]))
    way, links = [_entry(root)], 0
    while ahead and stat.S_ISDIR(os.lstat(here).st_mode):
        part = ahead.pop()
        if part == "..":
            here = here.parent
            continue
        entry = _entry(here / part)
        way.append(entry)
        if not stat.S_ISLNK(entry.mode):
            here = entry.path
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = entry.path.readlink()
        ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = root if target.is_absolute() else here
    if way[-1].path != here:  # it ends with '..'
        way.append(_entry(here))
    return tuple(way)


def _entry(path: Path) -> Entry:
    found = os.lstat(path)
    return Entry(path, found.st_mode, found.st_uid, found.st_gid, has_acl=_has_acl(path, found.st_mode))


def _has_acl(path: Path, mode: int) -> bool:
    if stat.S_ISLNK(mode) or not mode & stat.S_IRWXG:
        return False
    with suppress(OSError):  # not on this file system
        return bool(os.getxattr(path, _ACL, follow_symlinks=False))
    return False


@cache
def _users() -> Trusted:
    """Return root, with its group, and the user that we are.

    Whoever owns the root directory can replace everything, Python included. In a user namespace that does not know
    root, that is the number which stands for all users that it does not know (user_namespaces(7)).
    """
    return Trusted(frozenset({0, os.geteuid(), os.lstat("/").st_uid}), frozenset({_ROOT_GROUP}))


@cache
def _users_and_groups() -> Trusted:
    """Return the same, with the group that is ours alone."""
    users = _users()
    private = _private_group(os.geteuid())
    return users if private is None else replace(users, gids=users.gids | {private})


def _private_group(uid: int) -> int | None:
    """Return the group that is of the user alone; None when there is none.

    It has the user's name, as distributions make it for each user, and no other member. For numbers without names, as
    in a container, it is the group of the same number.
    """
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        with suppress(KeyError):
            grp.getgrgid(uid)
            return None
        return uid if os.getegid() == uid else None
    try:
        group = grp.getgrgid(user.pw_gid)
    except KeyError:
        return None
    if group.gr_name != user.pw_name or set(group.gr_mem) - {user.pw_name}:
        return None
    others = [other for other in pwd.getpwall() if other.pw_gid == user.pw_gid and other.pw_uid != uid]
    return None if others else user.pw_gid


def may_change(access: Access) -> str:
    """Return who may change what, as the beginning of a sentence."""
    return _in_words(access, f"may write to '{foreign(access.entry.path)}'")


def may_read(access: Access) -> str:
    """Return who may read what, as the beginning of a sentence."""
    return _in_words(access, f"may read '{foreign(access.entry.path)}'")


def _in_words(access: Access, what: str) -> str:
    entry = access.entry
    match access.who:
        case Who.EVERYBODY:
            return f"everybody on this machine {what}"
        case Who.GROUP if entry.has_acl:
            return f"its access control list says that others {what}"
        case Who.GROUP:
            return f"the members of group {group_name(entry.gid)} {what}"
        case Who.OWNER:
            return f"user {user_name(entry.uid)}, who owns it, {what}"


def end_of_change(access: Access) -> str:
    """Return what to do so that nobody but us and root can change the entry."""
    entry, path = access.entry, foreign(shlex.quote(str(access.entry.path)))
    match access.who:
        case Who.OWNER:
            owner = user_name(entry.uid)
            return f"Try:  chown -h {user_name(os.geteuid())} {path}\n  or do it as user {owner}."
        case _ if stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX:
            return f"'{foreign(entry.path)}' is there for all: use a directory of its own."
        case Who.EVERYBODY:
            return f"Try:  chmod o-w {path}"
        case Who.GROUP:
            return f"Try:  setfacl -b {path}" if entry.has_acl else f"Try:  chmod g-w {path}"


def user_name(uid: int) -> str:
    """Return the name of a user, or else the number."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group, or else the number."""
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
