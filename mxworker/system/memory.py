"""How much memory this process uses."""

from __future__ import annotations

from pathlib import Path
from resource import getpagesize

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = getpagesize()


def resident_bytes() -> int:
    """Return the resident set size, see proc_pid_statm(5). Raises OSError."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
