"""Write lines to stderr without ever waiting for their reader, and make sure that stderr exists.

When a log collector is stopped or stuck, the pipe to it is full, and a blocking write would hold up the master and make
workers miss their heartbeats. So a line is written at once or not at all. The pipe is enlarged, for a reader that is
only late.

The flag O_NONBLOCK belongs to the open file, which is shared with the process that started us: setting it would break
the output of a shell. So the flag is never set there. Instead the pipe is reopened for each line, which takes 5 us and
leaves no descriptor that a fork would inherit.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress

from mxworker.system.printable import head, well_formed

LINE_BYTES = 4096
"""The most bytes in one write: up to here a write is atomic, whoever else writes to the pipe (pipe(7), PIPE_BUF)."""

_PIPE_BYTES = 1 << 20
"""The most that a process may ask for (pipe(7)). One worker logs more than the default of 64 KiB at its start."""


def open_closed_streams() -> None:
    """Point closed standard descriptors at /dev/null, for subprocesses too. Call this first.

    Otherwise the next file that is opened would get the number, and would be written to as if it were stderr.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        place: int | str = os.devnull
        try:
            os.fstat(fd)
        except OSError:
            place = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free (open(2)), which is `fd`
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(place, "w" if fd else "r", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good


def make_room(fd: int) -> None:
    """Enlarge the pipe behind `fd`, if it is a pipe and the system allows that."""
    with suppress(OSError):
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def put(fd: int, raw: bytes) -> bool:
    """Write lines of at most `LINE_BYTES` bytes together; return False when they cannot be written at once.

    A target other than a pipe is polled for room first. A file always has room. A socket has room while a quarter of
    its buffer is free, which is more than a line, so that a concurrent write of another process does not use it up.
    """
    try:
        anew = _opened_anew(fd) if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
        if anew is None:
            return _has_room(fd) and os.write(fd, raw) == len(raw)
        try:
            return os.write(anew, raw) == len(raw)
        finally:
            os.close(anew)
    except OSError:  # the pipe or the disk is full, or the reader has gone
        return False


def pieces(text: str) -> Iterator[bytes]:
    """Yield a text as whole lines, as many at a time as `put` takes. A longer line is shortened."""
    piece = b""
    for line in well_formed(text).rstrip("\n").split("\n"):
        raw = head(line, LINE_BYTES - 1).encode() + b"\n"
        if len(piece) + len(raw) > LINE_BYTES:
            yield piece
            piece = b""
        piece += raw
    yield piece


def _opened_anew(fd: int) -> int | None:
    """Return a non-blocking descriptor of the same pipe; None when that is not allowed or there is no /proc."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _has_room(fd: int) -> bool:
    """Ask poll(2), which reports room in a pipe when a whole page is free."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    return bool(room.poll(0))
