"""Measure the draining of a queue inside the process that drains it."""

from __future__ import annotations

import multiprocessing
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
        """Count one handled message. It must not be called by two threads at once: see SharedStopwatch."""
        if self._counted == 0:
            self._profiling.begin()
            self._wall_s, self._cpu_s = time.monotonic(), job.cpu_s()
        self._counted += 1
        if self._counted == self._expected:
            wall_s, cpu_s = time.monotonic() - self._wall_s, job.cpu_s() - self._cpu_s
            self._profiling.end()
            job.report({"wall_s": wall_s, "cpu_s": cpu_s})


class SharedStopwatch:
    """A stopwatch for handlers in several threads, and in processes that are forked after it was made.

    The CPU time is that of all processes that this program is made of.
    """

    def __init__(self, expected: int = job.MESSAGES) -> None:
        """Report when `expected` messages were counted."""
        self._expected = expected
        self._counted = multiprocessing.Value("q", 0)
        self._begun = multiprocessing.Array("d", 2, lock=False)  # wall clock and CPU time

    def count(self) -> None:
        """Count one handled message."""
        with self._counted.get_lock():
            if self._counted.value == 0:
                self._begun[:] = [time.monotonic(), job.cpu_of_session_s()]
            self._counted.value += 1
            if self._counted.value == self._expected:
                wall_s, cpu_s = self._begun
                job.report({"wall_s": time.monotonic() - wall_s, "cpu_s": job.cpu_of_session_s() - cpu_s})
