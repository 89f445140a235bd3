"""The directories of this process's cgroup, from its own up to the top of the mount: the smallest limit of them counts.

See cgroups(7) and proc_pid_mountinfo(5). In a container without a cgroup namespace, the path of the group and the root
of the mount are those of the host; a path that is not below that root means that only the root is visible here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Group:
    """A directory of a cgroup file system."""

    folder: Path
    is_v2: bool


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted cgroup file system: the cgroup `root` is visible at the directory `point`."""

    root: PurePosixPath
    point: Path
    is_v2: bool


def groups(controller: str, proc: Path = PROC) -> list[Group]:
    """Return the directories that may have a limit of a controller for the process with this /proc directory."""
    try:
        mounts = list(_mounts((proc / "mountinfo").read_text("utf-8", "replace"), controller))
        lines = (proc / "cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [Group(folder, mount.is_v2) for mount in mounts for folder in _folders(mount, lines, controller)]


def _mounts(mountinfo: str, controller: str) -> Iterator[_Mount]:
    """Yield the mounts that may have a limit: cgroup v2, and v1 with the controller."""
    for line in mountinfo.splitlines():
        ours, _, theirs = line.partition(" - ")
        match ours.split(" "), theirs.split(" "):
            case [_, _, _, root, point, *_], ["cgroup2", *_]:
                yield _Mount(PurePosixPath(root), Path(point), is_v2=True)
            case [_, _, _, root, point, *_], ["cgroup", _, options] if controller in options.split(","):
                yield _Mount(PurePosixPath(root), Path(point), is_v2=False)


def _folders(mount: _Mount, lines: list[str], controller: str) -> Iterator[Path]:
    """Yield the directory of the process's cgroup in `mount`, and the directories above it."""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (controllers == "") if mount.is_v2 else (controller in controllers.split(",")):
            group = PurePosixPath(path)
            below = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
            yield mount.point / below
            yield from (mount.point / parent for parent in below.parents)
