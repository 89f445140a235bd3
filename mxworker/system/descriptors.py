"""The file descriptors that a child which the application forks must not use.

They are held by number, as a fork copies them. The set is one per process, as the kernel's table of descriptors is.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

_EPOLL = "anon_inode:[eventpoll]"

_claimed: set[int] = set()  # at most one entry for each descriptor of the process


def claim(*fds: int) -> None:
    """Keep descriptors from forked children. You must `release` each one before you close it."""
    _claimed.update(fds)


def release(fd: int) -> None:
    """Undo `claim` for one descriptor."""
    _claimed.discard(fd)


def release_closed() -> None:
    """Release the descriptors that their owner has closed without `release`, before another file gets their numbers."""
    _claimed.intersection_update(open_now())


def lead_to_nothing() -> None:
    """Point all claimed descriptors at /dev/null, in a forked child.

    They are not closed, because the child may then get the same number for a file of its own, and an object of ours
    would close that file when it is destroyed. The descriptor of an event loop gets an epoll instance that watches
    nothing, because libuv aborts without one.
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
    """Return all open descriptors of the process."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names alone
    return {fd for fd in listed if _is_open(fd)}  # the listing itself used a descriptor


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
