"""How much memory this process uses."""

from __future__ import annotations

import ctypes
from pathlib import Path
from resource import getpagesize

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = getpagesize()
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone


def resident_bytes() -> int:
    """Return the resident set size, see proc_pid_statm(5). Raises OSError."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES


def trim() -> None:
    """Give freed memory back to the system, where the C library can (malloc_trim(3)).

    Otherwise it keeps what lies between blocks in use: after a peak, that may be nearly all.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
