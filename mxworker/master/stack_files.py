"""A file in memory for each slot, which outlives the worker and holds its last stacks.

A worker's faulthandler writes the stacks of all threads into the file when the worker crashes, or when it hangs and
gets SIGABRT. The master reads them when it has reaped the worker.
"""

from __future__ import annotations

import os

_READ_BYTES = (
    1024 * 1024
)  # faulthandler writes at most 100 threads of 100 frames, and the thread at fault is often the last


class StackFiles:
    """The files of all slots that were ever used. The master holds them all, a worker only its own."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def empty(self, slot: int) -> int:
        """Return the descriptor for the next worker of `slot`, with nothing in the file. Raises OSError.

        Call after the former worker was reaped: it shares the position in the file.
        """
        if slot not in self._fds:
            self._fds[slot] = os.memfd_create(f"mxworker-slot-{slot}")
        fd = self._fds[slot]
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def read(self, slot: int) -> str:
        """Return what the last worker of `slot` wrote, at most 1 MiB; "" when it wrote nothing."""
        fd = self._fds.get(slot)
        return "" if fd is None else os.pread(fd, _READ_BYTES, 0).decode("utf-8", "backslashreplace")
