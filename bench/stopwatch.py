"""Measure the draining of a queue inside the process that drains it."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Self


class Stopwatch:
    """Counts messages, and measures the wall clock and CPU time of this process from the first to the last."""

    def __init__(self, expected: int, report: Path) -> None:
        """Write the result to `report` when `expected` messages were counted."""
        self._expected = expected
        self._report = report
        self._counted = 0
        self._wall_s = 0.0
        self._cpu_s = 0.0

    @classmethod
    def from_environment(cls) -> Self:
        """Read the settings of the benchmark from the environment."""
        return cls(int(os.environ["BENCH_MESSAGES"]), Path(os.environ["BENCH_REPORT"]))

    def count(self) -> None:
        """Count one handled message."""
        if self._counted == 0:
            self._wall_s, self._cpu_s = time.monotonic(), _cpu_s()
        self._counted += 1
        if self._counted == self._expected:
            wall_s, cpu_s = time.monotonic() - self._wall_s, _cpu_s() - self._cpu_s
            self._report.write_text(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}), encoding="utf-8")


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
