"""Putting lines on stderr without ever waiting for whoever reads them, and seeing to it that there is a stderr.

A reader that stands still, as a log collector does that is stopped or stuck, leaves a full pipe behind, and a write to
it would hold up the master and make workers miss their heartbeats. So a line is written at once, or not at all. For a
reader that is only late the pipe gets more room.

The flag for that, O_NONBLOCK, belongs to the open file, which is shared with whoever started us: a shell would find
its own output broken. So it is never set there; a pipe is opened anew instead, for each line: that takes 5 us, and
leaves no descriptor that a fork would have to shed.
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
"""What a write holds at most: it comes whole then, whoever else writes into the pipe (pipe(7), PIPE_BUF)."""

_PIPE_BYTES = 1 << 20
"""More may not be asked for (pipe(7)). The usual 64 KiB are less than one worker logs when it tells what it runs."""


def open_closed_streams() -> None:
    """Have the standard descriptors that are closed lead to /dev/null, for subprocesses, too.

    Else the next file that is opened would get the number, and be written into as if it were stderr. Call it first.
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
    """Enlarge what is on its way to the reader of `fd`, if that is a pipe and the system allows it."""
    with suppress(OSError):
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def put(fd: int, raw: bytes) -> bool:
    """Write lines of at most `LINE_BYTES` bytes in all; return False when they could not be written at once.

    Other targets than pipes are asked first whether there is room. Files always say yes, sockets as long as a quarter
    of their buffer is free, which is more than a line, so that what others write meanwhile does not take it.
    """
    try:
        anew = _opened_anew(fd) if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
        if anew is None:
            return _has_room(fd) and os.write(fd, raw) == len(raw)
        try:
            return os.write(anew, raw) == len(raw)
        finally:
            os.close(anew)
    except OSError:  # a full pipe, a full disk, nobody there any more
        return False


def pieces(text: str) -> Iterator[bytes]:
    """Yield a text as whole lines, as many at a time as `put` takes. A line that is longer is shortened."""
    piece = b""
    for line in well_formed(text).rstrip("\n").split("\n"):
        raw = head(line, LINE_BYTES - 1).encode() + b"\n"
        if len(piece) + len(raw) > LINE_BYTES:
            yield piece
            piece = b""
        piece += raw
    yield piece


def _opened_anew(fd: int) -> int | None:
    """Return a descriptor of the same pipe that does not block; None when we may not, or there is no /proc."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _has_room(fd: int) -> bool:
    """Ask poll(2); of a pipe it says yes when a whole page is free."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    return bool(room.poll(0))
