"""How many CPUs are usable, on made-up cgroup trees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxworker.cli.cpus import Cpus, fewer, parse_cfs, parse_cpu_max, quota_cpus, usable


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("max 100000\n", None),
        ("max", None),
        ("", None),
        ("100000", None),
        ("100000 0", None),
        ("x y", None),
    ],
)
def test_cpu_max_of_v2_is_read(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("150000\n", 1.5), ("-1\n", None), ("0\n", None), ("", None)])
def test_quota_of_v1_is_read(quota: str, cpus: float | None) -> None:
    assert parse_cfs(quota, "100000\n") == cpus


@pytest.mark.parametrize(
    ("affinity", "quota", "count", "origin"),
    [
        (4, None, 4, "4 usable CPUs"),
        (1, None, 1, "1 usable CPU"),
        (4, 1.5, 2, "cgroup quota of 1.5 CPUs"),
        (4, 2.0, 2, "cgroup quota of 2 CPUs"),
        (4, 1.0, 1, "cgroup quota of 1 CPU"),
        (4, 0.25, 1, "cgroup quota of 0.25 CPU"),
        (2, 2.0, 2, "2 usable CPUs"),
        (2, 8.0, 2, "2 usable CPUs"),
    ],
)
def test_smaller_of_affinity_and_quota_counts_rounded_up(
    affinity: int, quota: float | None, count: int, origin: str
) -> None:
    assert fewer(affinity, quota) == Cpus(count, origin)


class Tree:
    """A made-up `/proc/self` and the cgroup file systems that it names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self._mounts = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw"]
        self._groups: list[str] = []

    def mount(self, name: str, kind: str, options: str, group_root: str = "/") -> Path:
        point = self.root / name
        point.mkdir()
        self._mounts.append(f"31 22 0:28 {group_root} {point} rw,relatime shared:9 - {kind} {kind} {options}")
        return point

    def enter(self, line: str) -> None:
        self._groups.append(line)

    def quota(self) -> float | None:
        (self.proc / "mountinfo").write_text("\n".join(self._mounts) + "\n")
        (self.proc / "cgroup").write_text("\n".join(self._groups) + "\n")
        return quota_cpus(self.proc)


def limit(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    return Tree(tmp_path)


def test_smallest_quota_on_the_way_up_counts_in_v2(tree: Tree) -> None:
    point = tree.mount("cgroup", "cgroup2", "rw,nsdelegate")
    tree.enter("0::/shop/orders.service/worker")
    limit(point / "shop/orders.service/worker", cpu__max="max 100000")
    limit(point / "shop/orders.service", cpu__max="300000 100000")
    limit(point / "shop", cpu__max="150000 100000")
    limit(point / "other", cpu__max="10000 100000")
    assert tree.quota() == 1.5


def test_quota_of_a_container_is_at_the_top_of_its_own_tree_in_v2(tree: Tree) -> None:
    point = tree.mount("cgroup", "cgroup2", "rw")
    tree.enter("0::/")
    limit(point, cpu__max="50000 100000")
    assert tree.quota() == 0.5


def test_quota_of_v1_is_found_in_the_mount_of_the_cpu_controller(tree: Tree) -> None:
    point = tree.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    tree.mount("cpuset", "cgroup", "rw,cpuset")
    tree.enter("9:cpuset:/else")
    tree.enter("4:cpu,cpuacct:/shop")
    limit(point / "shop", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert tree.quota() == 2.5


def test_a_container_that_sees_its_hosts_path_finds_its_own_folder(tree: Tree) -> None:
    point = tree.mount("cpu", "cgroup", "rw,cpu", group_root="/docker/0123")
    tree.enter("4:cpu:/docker/0123/inner")
    limit(point, cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    limit(point / "inner", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert tree.quota() == 0.5


def test_a_path_outside_of_what_is_mounted_means_the_top(tree: Tree) -> None:
    point = tree.mount("cgroup", "cgroup2", "rw", group_root="/docker/0123")
    tree.enter("0::/../elsewhere")
    limit(point, cpu__max="200000 100000")
    assert tree.quota() == 2.0


@pytest.mark.parametrize("line", ["", "garbage", "1 2 3 / - cgroup2", "a b c d e - cgroup2 x y"])
def test_what_cannot_be_understood_is_no_quota(tree: Tree, line: str) -> None:
    (tree.proc / "mountinfo").write_text(line)
    (tree.proc / "cgroup").write_text("garbage\n0::/\n")
    assert quota_cpus(tree.proc) is None


def test_no_proc_is_no_quota(tmp_path: Path) -> None:
    assert quota_cpus(tmp_path / "missing") is None


def test_at_least_one_cpu_is_usable_here() -> None:
    assert 1 <= usable().count <= len(os.sched_getaffinity(0))
