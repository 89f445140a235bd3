"""Files in memory for each slot, which outlive its worker and carry to the master what does not fit on the board.

There are two kinds. A worker's faulthandler writes the stacks of all threads into the one for stacks when the worker
crashes, or when it hangs and gets SIGABRT; the master reads them when it has reaped the worker. The one for profiles
gets the result of each profile that the operator asks for.
"""

from __future__ import annotations

import os


class SlotFiles:
    """The files of one kind, of all slots that were ever used. The master holds them all, a worker only its own."""

    def __init__(self, kind: str) -> None:
        """`kind` becomes a part of the names of the files, which /proc shows."""
        self._kind = kind
        self._fds: dict[int, int] = {}

    def empty(self, slot: int) -> int:
        """Return the descriptor for the next worker of `slot`, with nothing in the file. Raises OSError.

        Call after the former worker was reaped: it shares the position in the file.
        """
        if slot not in self._fds:
            self._fds[slot] = os.memfd_create(f"mxworker-{self._kind}-{slot}")
        fd = self._fds[slot]
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def fd(self, slot: int) -> int:
        """Return the descriptor of a slot that had a worker, which has the same number in the worker."""
        return self._fds[slot]

    def read(self, slot: int, size: int, at: int = 0) -> bytes:
        """Return at most `size` bytes from `at` on of what the last worker of `slot` wrote."""
        fd = self._fds.get(slot)
        return b"" if fd is None else os.pread(fd, size, at)
