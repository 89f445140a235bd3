"""Measure how much memory a service uses, and how much of that its processes share.

    python -m bench.memory [--workers 1,2,4] [--messages 20000] [--rounds 3]

The memory of the master and its workers is measured when they are ready and again after they have consumed, with and
without `gc.freeze()`. RSS counts a shared page in every process that has it. PSS divides a shared page among them, so
that the sum of PSS is the memory of the service. USS is the memory of one process alone (proc_pid_smaps(5)). The
benchmark prints medians in MB.

The broker is the one in MXWORKER_BROKER_URL; `make bench` starts a private one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contest import QUEUE
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

WAYS = {"gc.freeze": "", "no freeze": "import gc; gc.freeze = lambda: None; "}
SIZES = ("rss_bytes", "pss_bytes", "uss_bytes")
BYTES_PER_KIB = 1024
HEADING = f"{'':<28}{'master':>8}{'':>16}{'worker':>8}{'':>16}{'service':>8}\n" + (
    f"{'workers, way, when':<28}" + f"{'RSS':>8}{'PSS':>8}{'USS':>8}" * 2 + f"{'PSS':>8}"
)


@dataclass(frozen=True)
class Weight:
    """The memory of one process, in bytes."""

    rss_bytes: int
    pss_bytes: int
    uss_bytes: int

    @classmethod
    def of(cls, pid: int) -> Weight:
        """Measure a running process."""
        sizes: dict[str, int] = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
            name, size, _ = line.split()
            sizes[name.rstrip(":")] = int(size) * BYTES_PER_KIB
        return cls(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


@dataclass(frozen=True)
class Sample:
    """One measurement of a service: its master and its workers."""

    master: Weight
    workers: tuple[Weight, ...]

    @property
    def pss_bytes(self) -> int:
        """The memory of the whole service."""
        return self.master.pss_bytes + sum(worker.pss_bytes for worker in self.workers)


def weigh(service: Service) -> Sample:
    """Measure all processes of a service now."""
    return Sample(Weight.of(service.pid), tuple(Weight.of(pid) for pid in service.worker_pids()))


def measure(url: str, way: str, workers: int, messages: int, folder: Path) -> tuple[Sample, Sample]:
    """Run a service until it has consumed the messages; return its memory when ready, and at the end."""
    with Client(url) as client:
        client.delete(QUEUE)
    program = f"{WAYS[way]}from mxworker.cli import main; main()"
    app = ["run", "bench.memory_app:handlers", f"--workers={workers}"]
    settings = {"MXWORKER_BROKER_URL": url, "BENCH_QUEUE": QUEUE}
    with Service([sys.executable, "-c", program, *app], folder, env=settings) as service:
        service.wait_ready()
        idle = weigh(service)
        with Client(url) as client:
            client.publish(QUEUE, (b'{"id": 1, "customer": "c-1042", "total": 19.9}' for _ in range(messages)))
            wait_until(lambda: client.counts(QUEUE).messages == 0, 60.0, "an empty queue")
        worked = weigh(service)
    return idle, worked


def row(title: str, samples: Sequence[Sample]) -> str:
    """Return a line of medians."""
    workers = [worker for sample in samples for worker in sample.workers]
    sizes = [
        *(statistics.median(getattr(sample.master, size) for sample in samples) for size in SIZES),
        *(statistics.median(getattr(worker, size) for worker in workers) for size in SIZES),
        statistics.median(sample.pss_bytes for sample in samples),
    ]
    return f"{title:<28}" + "".join(f"{size / 1e6:>8.1f}" for size in sizes)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure the memory of a service, idle and after work.")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    url = os.environ.get("MXWORKER_BROKER_URL") or sys.exit("set MXWORKER_BROKER_URL, or use `make bench`")
    samples: dict[str, list[Sample]] = defaultdict(list)
    for _ in range(options.rounds):
        for workers in map(int, options.workers.split(",")):
            for way in WAYS:
                with tempfile.TemporaryDirectory() as folder:
                    idle, worked = measure(url, way, workers, options.messages, Path(folder))
                samples[f"{workers}, {way}, idle"].append(idle)
                samples[f"{workers}, {way}, worked"].append(worked)
    with Client(url) as client:
        client.delete(QUEUE)
    print(HEADING)
    for title, taken in samples.items():
        print(row(title, taken))


if __name__ == "__main__":
    main()
