"""The job of this process, as `bench.contenders.Job` puts it into the environment, and its report."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

URL = os.environ["BENCH_URL"]
QUEUE = os.environ["BENCH_QUEUE"]
QUEUE_TYPE = os.environ["BENCH_QUEUE_TYPE"]
TARGET = os.environ["BENCH_TARGET"]
MESSAGES = int(os.environ["BENCH_MESSAGES"])
BODY_BYTES = int(os.environ["BENCH_BODY_BYTES"])
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
PREFETCH = int(os.environ["BENCH_PREFETCH"])
WINDOW = int(os.environ["BENCH_WINDOW"])
RATE = float(os.environ["BENCH_RATE"])
_REPORT = Path(os.environ["BENCH_REPORT"])


def cpu_s() -> float:
    """Return the CPU time of this process so far, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_of_session_s() -> float:
    """Return the CPU time so far of this process and of all in its session: those of a program that forks."""
    session = os.getsid(0)
    total = 0.0
    for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        with suppress(OSError):  # it has ended meanwhile
            if os.getsid(pid) == session:
                total += time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) tells
    return total


def report(measured: Mapping[str, float]) -> None:
    """Hand over what was measured."""
    unfinished = _REPORT.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(dict(measured)), encoding="utf-8")
    unfinished.replace(_REPORT)
