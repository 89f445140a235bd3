"""How many CPUs this process may use: the CPUs of its affinity, but no more than the quota of its cgroup.

A container with `--cpus 1.5` sees all CPUs of its host; only the quota shows the limit (cgroups(7),
proc_pid_mountinfo(5), the kernel's pages on `cpu.max` of cgroup v2 and `cpu.cfs_quota_us` of v1). The smallest quota
counts, from the process's cgroup up to the top of the mount. A quota that cannot be read or parsed is ignored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Cpus:
    """A number of CPUs, and a text that says where the number comes from."""

    count: int
    origin: str


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted cgroup file system: the cgroup `root` is visible at the directory `point`."""

    root: PurePosixPath
    point: Path
    is_v2: bool


def usable() -> Cpus:
    """Return the CPUs that this process may use, rounded up and at least one."""
    return fewer(len(os.sched_getaffinity(0)), quota_cpus())


def fewer(affinity: int, quota_cpus: float | None) -> Cpus:
    """Return the CPUs that an affinity and a quota above 0, or None for no quota, leave."""
    if quota_cpus is None or quota_cpus >= affinity:
        return Cpus(affinity, f"{affinity} usable CPU{'s' if affinity > 1 else ''}")
    count = math.ceil(quota_cpus)
    return Cpus(count, f"cgroup quota of {quota_cpus:.3g} CPU{'s' if quota_cpus > 1 else ''}")


def quota_cpus(proc: Path = Path("/proc/self")) -> float | None:
    """Return the quota of the process with this /proc directory in CPUs, None when it has none."""
    try:
        mounts = list(_cgroup_mounts((proc / "mountinfo").read_text("utf-8", "replace")))
        groups = (proc / "cgroup").read_text("utf-8", "replace")
    except OSError:
        return None
    quotas = [_quota_at(folder, mount.is_v2) for mount in mounts for folder in _folders(mount, groups)]
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


def _cgroup_mounts(mountinfo: str) -> Iterator[_Mount]:
    """Yield the mounts that may limit CPUs: cgroup v2, and v1 with the controller `cpu`."""
    for line in mountinfo.splitlines():
        ours, _, theirs = line.partition(" - ")
        match ours.split(" "), theirs.split(" "):
            case [_, _, _, root, point, *_], ["cgroup2", *_]:
                yield _Mount(PurePosixPath(root), Path(point), is_v2=True)
            case [_, _, _, root, point, *_], ["cgroup", _, options] if "cpu" in options.split(","):
                yield _Mount(PurePosixPath(root), Path(point), is_v2=False)


def _folders(mount: _Mount, groups: str) -> Iterator[Path]:
    """Yield the directory of the process's cgroup in `mount`, and the directories above it.

    In a container without a cgroup namespace, the path in `groups` and the root of the mount are those of the host. A
    path that is not below that root means that only the root is visible here.
    """
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (controllers == "") if mount.is_v2 else ("cpu" in controllers.split(",")):
            group = PurePosixPath(path)
            below = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
            yield mount.point / below
            yield from (mount.point / parent for parent in below.parents)
