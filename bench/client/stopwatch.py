"""Measure the draining of a queue inside the process that drains it."""

from __future__ import annotations

import time

from bench.client import job
from bench.client.profiling import Profiling


class Stopwatch:
    """Counts messages, and measures the wall clock and CPU time of this process from the first to the last."""

    def __init__(self, expected: int = job.MESSAGES) -> None:
        """Report when `expected` messages were counted."""
        self._expected = expected
        self._counted = 0
        self._wall_s = 0.0
        self._cpu_s = 0.0
        self._profiling = Profiling()

    def count(self) -> None:
        """Count one handled message. Handlers in several threads need a lock around it."""
        if self._counted == 0:
            self._profiling.begin()
            self._wall_s, self._cpu_s = time.monotonic(), job.cpu_s()
        self._counted += 1
        if self._counted == self._expected:
            wall_s, cpu_s = time.monotonic() - self._wall_s, job.cpu_s() - self._cpu_s
            self._profiling.end()
            job.report({"wall_s": wall_s, "cpu_s": cpu_s})
