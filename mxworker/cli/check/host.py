"""What this host lets a service have: open files and memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from mxworker.cli.cgroups import PROC, Group, groups
from mxworker.cli.check.totals import Host


def this_host() -> Host:
    """Return the limits for this process and its children."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory_bytes, origin = memory()
    return Host(None if files == resource.RLIM_INFINITY else files, memory_bytes, origin)


def memory(proc: Path = PROC) -> tuple[int, str]:
    """Return the bytes of memory that may be used, and where the number comes from."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [limit for group in groups("memory", proc) if (limit := _limit_of(group)) is not None]
    least = min(limits, default=has)
    return (least, "cgroup limit") if least < has else (has, "memory of this machine")


def _limit_of(group: Group) -> int | None:
    """Return the limit of a cgroup; None for `max`, and when there is none to read."""
    try:
        return int((group.folder / ("memory.max" if group.is_v2 else "memory.limit_in_bytes")).read_text())
    except (OSError, ValueError):
        return None
