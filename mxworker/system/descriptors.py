"""The file descriptors of this process that are ours alone: a child that the application forks does not get them.

Held by number, since that is what a fork copies. The table is the process's own, as the kernel's is, and so is ours.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

_EPOLL = "anon_inode:[eventpoll]"

_claimed: set[int] = set()  # at most one entry for each descriptor of the process


def claim(*fds: int) -> None:
    """Keep descriptors from forked children; you must `release` each before it is closed."""
    _claimed.update(fds)


def release(fd: int) -> None:
    """Take back `claim`."""
    _claimed.discard(fd)


def lead_to_nothing() -> None:
    """In a forked child, have all that is claimed lead to /dev/null.

    It is not closed: an object of ours that closes its descriptor at its own end would close a file of the child, which
    had got the number since. An event loop gets an epoll instance that watches nothing: libuv aborts without one.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in _claimed:
        if str(Path(f"/proc/self/fd/{fd}").readlink()) == _EPOLL:
            with select.epoll() as idle:
                os.dup2(idle.fileno(), fd, inheritable=False)
        else:
            os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


def open_now() -> set[int]:
    """Return all descriptors of the process."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names alone
    return {fd for fd in listed if _is_open(fd)}  # the listing had one of its own


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
