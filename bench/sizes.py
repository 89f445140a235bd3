"""The size and the CPU time of processes, as the kernel counts them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_BYTES_PER_KIB = 1024


@dataclass(frozen=True, slots=True)
class Size:
    """The memory of a process, in bytes (proc_pid_smaps(5)).

    RSS counts a shared page in every process that has it. PSS divides a shared page among them, so that the sum of PSS
    is the memory of a service. USS is what one process has alone.
    """

    rss_bytes: int
    pss_bytes: int
    uss_bytes: int


def size_of(pid: int | str) -> Size:
    """Return the size of a running process; "self" is this one."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, size, _ = line.split()
        sizes[name.rstrip(":")] = int(size) * _BYTES_PER_KIB
    return Size(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a process so far, in nanoseconds, without threads that have ended."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads)
