"""Read the owners and modes on the path to a file, for `permissions` to decide, and describe what it finds."""

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

_LINKS = 40  # the kernel follows no more, path_resolution(7)
_ROOT_GROUP = 0  # root chooses its members
_ACL = "system.posix_acl_access"


def changer_of(path: Path) -> Access | None:
    """Return who else could change or replace `path`, None when nobody could. Raises OSError."""
    return _else(changer, way_to(path))


def reader_of(path: Path) -> Access | None:
    """Return who else could read `path`, None when nobody could. Raises OSError."""
    return _else(reader, way_to(path))


def is_given_directory(directory: Path) -> bool:
    """Tell whether we or root put a directory there, whoever owns it. False when it cannot be looked at."""
    try:
        way = way_to(directory)
    except OSError:
        return False
    return is_given(way, _users()) or is_given(way, _users_and_groups())


def _else(find: Callable[[Sequence[Entry], Trusted], Access | None], way: Sequence[Entry]) -> Access | None:
    """Return who else has access. Groups are looked up only when they matter: with many users that is slow."""
    return find(way, _users()) and find(way, _users_and_groups())


def way_to(path: Path) -> tuple[Entry, ...]:
    """Return every entry on the path to `path`, with `path` itself. Raises OSError when one is missing.

    For a file inside a file, such as a module in a zip archive, the last entry is the archive.
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
    if way[-1].path != here:  # the path ends with '..'
        way.append(_entry(here))
    return tuple(way)


def _entry(path: Path) -> Entry:
    found = os.lstat(path)
    return Entry(path, found.st_mode, found.st_uid, found.st_gid, has_acl=_has_acl(path, found.st_mode))


def _has_acl(path: Path, mode: int) -> bool:
    if stat.S_ISLNK(mode) or not mode & stat.S_IRWXG:
        return False
    with suppress(OSError):  # this file system has no access control lists
        return bool(os.getxattr(path, _ACL, follow_symlinks=False))
    return False


@cache
def _users() -> Trusted:
    """Return root with its group, our own user, and the owner of the root directory.

    The owner of the root directory can replace everything, Python included. In a user namespace without root, it is the
    overflow user ID, which stands for all unmapped users (user_namespaces(7)).
    """
    return Trusted(frozenset({0, os.geteuid(), os.lstat("/").st_uid}), frozenset({_ROOT_GROUP}))


@cache
def _users_and_groups() -> Trusted:
    """Return the same users and groups, and the private group of our user."""
    users = _users()
    private = _private_group(os.geteuid())
    return users if private is None else replace(users, gids=users.gids | {private})


def _private_group(uid: int) -> int | None:
    """Return the private group of a user, None when the user has none.

    A private group has the user's name, as distributions create it for each user, and no other member. For IDs without
    names, as in a container, it is the group with the same number.
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
    """Return who may change which entry, as the beginning of a sentence."""
    return _in_words(access, f"may write to '{foreign(access.entry.path)}'")


def may_read(access: Access) -> str:
    """Return who may read which entry, as the beginning of a sentence."""
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
    """Return what the operator can do so that only we and root can change the entry."""
    entry, path = access.entry, foreign(shlex.quote(str(access.entry.path)))
    match access.who:
        case Who.OWNER:
            owner = user_name(entry.uid)
            return f"Try:  chown -h {user_name(os.geteuid())} {path}\n  or do it as user {owner}."
        case _ if stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX:
            return f"'{foreign(entry.path)}' is shared by all users: use a separate directory."
        case Who.EVERYBODY:
            return f"Try:  chmod o-w {path}"
        case Who.GROUP:
            return f"Try:  setfacl -b {path}" if entry.has_acl else f"Try:  chmod g-w {path}"


def user_name(uid: int) -> str:
    """Return the name of a user, or the number when it has no name."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group, or the number when it has no name."""
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
