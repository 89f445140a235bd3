"""The samples of a benchmark, and its table. Figures depend on the machine; compare the ratios of one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = "mxworker"
_DEADLINE_S = 300.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Sample:
    """One run of one rival: the wall clock and CPU time of its process from its first to its last message."""

    messages: int
    wall_s: float
    cpu_s: float
    p50_ms: float | None = None
    p95_ms: float | None = None

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per message."""
        return self.cpu_s / self.messages * 1e6


def measure(command: Sequence[str], settings: Mapping[str, str], messages: int, folder: Path) -> Sample:
    """Run one rival until it has written its report. Its environment has each of `settings` as BENCH_<NAME>."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    bench = {f"BENCH_{name}": value for name, value in settings.items()}
    environment = os.environ | bench | {"BENCH_MESSAGES": str(messages), "BENCH_REPORT": str(report)}
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + _DEADLINE_S
        while not (report.exists() and report.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"{command} did not finish (exit code {process.returncode})")
            time.sleep(_LOOK_S)
        process.terminate()
    return Sample(messages, **json.loads(report.read_text()))


def table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return a table with the medians, and the ratio of our rate to that of each rival."""
    rates = {name: statistics.median(sample.rate for sample in taken) for name, taken in samples.items()}
    lines = [f"{'median':<19} {'msg/s':>9}  {'us CPU/msg':>10}  {'CPU busy':>8}  {'p95 ms':>7}  {'ours : it':>9}"]
    for name, taken in samples.items():
        cpu_us = statistics.median(sample.cpu_us for sample in taken)
        late_ms = [sample.p95_ms for sample in taken if sample.p95_ms is not None]
        p95_ms = f"{statistics.median(late_ms):.2f}" if late_ms else "-"
        lines.append(
            f"{name:<19} {rates[name]:>9,.0f}  {cpu_us:>10.1f}  {rates[name] * cpu_us / 1e6:>8.0%}"
            f"  {p95_ms:>7}  {rates[OURS] / rates[name]:>8.2f}x"
        )
    return "\n".join(lines)
