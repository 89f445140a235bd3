"""Where the control socket is, and the lock that says whose it is.

The master that holds the lock beside the socket owns the address. The kernel releases the lock when its holder dies,
however that happens, so a socket that was left over can be told from one in use. The lock's file is never removed: two
masters could then hold locks of the same name.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mxworker.control.protocol import ADDRESS_BYTES, LOCK_BYTES, Identity, lock_line, parse_lock
from mxworker.control.socket_directories import is_for_all, spare_for
from mxworker.errors import ConfigError
from mxworker.system.file_access import changer_of, end_of_change, may_change
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

_LOG = logging.getLogger("mxworker.master")

_BACKLOG = 128


class Listener:
    """The listening socket at its address, locked against other masters."""

    def __init__(self, path: Path, identity: Identity | None = None, as_option: str = "") -> None:
        """Take the address `path`, in a directory that exists, for the service `identity`.

        `as_option` is how to name that service on a command line.

        Raises ConfigError when another master has it or something else is there, OSError when it cannot be used.
        """
        if len(os.fsencode(path)) > ADDRESS_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"the address of a socket has at most {ADDRESS_BYTES} bytes")
        self.path = path
        identity = identity or Identity(path.stem)
        self._lock_fd = _lock(path, identity, as_option or identity.as_option)
        try:
            self.socket = _bind(path)
        except BaseException:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        """Remove the socket and release the lock."""
        with suppress(OSError):
            self.path.unlink()
        self.socket.close()
        os.close(self._lock_fd)


def _lock(path: Path, identity: Identity, as_option: str) -> int:
    """Return the descriptor that holds the lock of `path`."""
    lock = path.with_name(path.name + ".lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = parse_lock(os.read(fd, LOCK_BYTES))
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise ConfigError(
            f"another mxworker (process {holder[1] if holder else 'unknown'}) already runs under this name: it has "
            f"{foreign(path)}.\n"
            f"  Stop it with:  mxworker ctl {foreign(as_option)} stop\n"
            "  or give this one another --name, or another --control-socket."
        ) from None
    os.truncate(fd, 0)
    os.write(fd, lock_line(identity, os.getpid()))
    return fd


def _bind(path: Path) -> socket.socket:
    """Return a listening socket at `path`, for this user alone. A socket that a dead master left there is replaced."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"'{foreign(path)}' exists and is no socket.  Name another place with --control-socket.")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    former = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(former)
    return listening


def listen_at(path: Path, identity: Identity | None = None) -> Listener:
    """Listen at the place that the operator asked for. Raises ConfigError when that is not possible."""
    try:
        if (access := changer_of(path.parent)) is not None:
            raise ConfigError(f"{may_change(access)}, and so replace the socket.\n  {end_of_change(access)}")
        return Listener(path.absolute(), identity, f"--control-socket {shlex.quote(str(path))}")
    except OSError as error:
        raise ConfigError(f"no control socket can be made at '{foreign(path)}': {error.strerror}.") from error


def listen(identity: Identity, places: Sequence[Path]) -> Listener | None:
    """Listen as the service `identity` in the first of the places that works; None, with a warning, when none does.

    A place that others could change is passed over with a warning, so that no other user can keep a service from
    starting or from being controlled. In a directory for all users, such as /tmp, another name is taken instead.
    Raises ConfigError when another service has the name.
    """
    for place in places:
        try:
            if place.parent.stat().st_uid in (0, os.geteuid()):  # after su(1), XDG_RUNTIME_DIR is another user's
                return Listener(_own_or_spare(place) / identity.file_name, identity)
        except NotOurs as error:
            _LOG.warning(
                "not used for the control socket: %s",
                error,
                extra=log_event("control_socket_skipped", error=str(error)),
            )
        except OSError:
            continue  # a read-only root, for one
    _LOG.warning(
        "no control socket: nothing can be written to %s. 'mxworker ctl' and 'mxworker status' will not reach this "
        "service. Name a place for it with --control-socket",
        " or ".join(map(foreign, places)),
        extra=log_event("control_socket_missing", places=[str(place) for place in places]),
    )
    return None


def _own_or_spare(place: Path) -> Path:
    """Return `place`, or a directory beside it when another user has taken its name in a directory for all."""
    try:
        own_directory(place)
    except NotOurs as error:
        if not is_for_all(place.parent):
            raise
        spare = spare_for(place)
        why = str(error).partition("\n")[0]
        facts = log_event("control_socket_moved", place=str(spare), why=why)
        _LOG.warning("the control socket is in %s instead: %s", spare, why, extra=facts)
        return spare
    return place


class NotOurs(ConfigError):
    """A directory in which others could replace the socket."""


def own_directory(path: Path) -> None:
    """Make a directory that is ours alone. Raises NotOurs when it is not, OSError when it cannot be made."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or changer_of(path) is not None:
        raise NotOurs(
            f"'{foreign(path)}' must be a directory that belongs to this user and that nobody else can write to.\n"
            "  Remove it, or name another place with --control-socket."
        )
