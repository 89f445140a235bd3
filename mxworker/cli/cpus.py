"""How many CPUs this process may use: the CPUs of its affinity, but no more than the quota of its cgroup.

A container with `--cpus 1.5` sees all CPUs of its host; only the quota shows the limit (the kernel's pages on `cpu.max`
of cgroup v2 and `cpu.cfs_quota_us` of v1). A quota that cannot be read or parsed is ignored.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from mxworker.cli.cgroups import PROC, groups


@dataclass(frozen=True, slots=True)
class Cpus:
    """A number of CPUs, and a text that says where the number comes from."""

    count: int
    origin: str


def usable() -> Cpus:
    """Return the CPUs that this process may use, rounded up and at least one."""
    return fewer(len(os.sched_getaffinity(0)), quota_cpus())


def fewer(affinity: int, quota_cpus: float | None) -> Cpus:
    """Return the CPUs that an affinity and a quota above 0, or None for no quota, leave."""
    if quota_cpus is None or quota_cpus >= affinity:
        return Cpus(affinity, f"{affinity} usable CPU{'s' if affinity > 1 else ''}")
    count = math.ceil(quota_cpus)
    return Cpus(count, f"cgroup quota of {quota_cpus:.3g} CPU{'s' if quota_cpus > 1 else ''}")


def quota_cpus(proc: Path = PROC) -> float | None:
    """Return the quota of the process with this /proc directory in CPUs, None when it has none."""
    quotas = [_quota_at(group.folder, group.is_v2) for group in groups("cpu", proc)]
    return min((quota for quota in quotas if quota is not None), default=None)


def parse_cpu_max(text: str) -> float | None:
    """Return the CPUs of a `cpu.max` of cgroup v2: `150000 100000` is 1.5, `max 100000` is None."""
    quota_us, _, period_us = text.partition(" ")
    return parse_cfs(quota_us, period_us)


def parse_cfs(quota_us: str, period_us: str) -> float | None:
    """Return the CPUs of the quota and the period of cgroup v1; a quota of -1 is None."""
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _quota_at(folder: Path, is_v2: bool) -> float | None:
    try:
        if is_v2:
            return parse_cpu_max((folder / "cpu.max").read_text())
        return parse_cfs((folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text())
    except OSError:
        return None
