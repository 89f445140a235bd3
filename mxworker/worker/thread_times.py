"""How long a thread of this process was on a CPU and waited for one: the kernel's accounting (proc(5), schedstat)."""

from __future__ import annotations

import ctypes
import os

from mxworker.system import descriptors
from mxworker.worker.block_clock import Spent

_NUMBERS, _BYTES = 3, 100  # nanoseconds on a CPU, nanoseconds waiting for one, number of times on one
_NS_PER_S = 1_000_000_000

# `os.pread` would give up the interpreter's lock, and a thread that keeps it for seconds would run on between the look
# at its stack and that at its times.
_pread = ctypes.PyDLL(None).pread
_pread.restype = ctypes.c_ssize_t
_pread.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)


class ThreadTimes:
    """The times of one thread, until `close`. They are zero where the kernel has no accounting."""

    def __init__(self, thread_id: int) -> None:
        """`thread_id` is the kernel's."""
        self._room = ctypes.create_string_buffer(_BYTES)
        self._fd: int | None = None
        try:
            self._fd = os.open(f"/proc/self/task/{thread_id}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        descriptors.claim(self._fd)
        if len(self._read()) != _NUMBERS:
            self.close()

    def spent(self) -> Spent:
        """Return the times so far. The interpreter's lock is kept meanwhile, so all other threads stand still."""
        if self._fd is None:
            return Spent(0.0, 0.0)
        running_ns, queued_ns, _ = self._read()
        return Spent(int(running_ns) / _NS_PER_S, int(queued_ns) / _NS_PER_S)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd is not None:
            descriptors.release(self._fd)
            os.close(self._fd)
            self._fd = None

    def _read(self) -> list[bytes]:
        length = _pread(self._fd, self._room, _BYTES, 0)
        return self._room.raw[: max(length, 0)].split()
