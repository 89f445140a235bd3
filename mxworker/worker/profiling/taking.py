"""Profiles of this process, taken by the thread that calls. They may be stopped before their time is up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from mxworker.worker.profiling import allocations
from mxworker.worker.profiling.allocations import Stopped
from mxworker.worker.profiling.recording import Recording
from mxworker.worker.profiling.sampler import Sampler

SAMPLE_EVERY_S = 0.01
COST_SHARE = 0.02
"""The share of a CPU that the thread of the sampler may use: when its samples cost more, there are fewer of them."""

_LOOK_EVERY_S = 0.1


def sampled(sampler: Sampler, seconds: float, is_wanted: Callable[[], bool]) -> Recording:
    """Sample for some seconds, and return the recording. Raises Stopped when it is not wanted any more."""
    sampler.begin()
    jitter = random.Random()  # noqa: S311 - so that no periodic work hides between samples; no secret
    deadline = time.monotonic() + seconds
    pause_s = SAMPLE_EVERY_S
    while (left_s := deadline - time.monotonic()) > 0:
        time.sleep(min(left_s, pause_s * jitter.uniform(0.8, 1.2)))
        if not is_wanted():
            raise Stopped
        began_ns = time.thread_time_ns()
        sampler.take()
        pause_s = max(SAMPLE_EVERY_S, (time.thread_time_ns() - began_ns) / 1e9 / COST_SHARE)
    return sampler.recording


def traced(title: str, seconds: float, is_wanted: Callable[[], bool]) -> str:
    """Trace allocations for some seconds, and return the report. Raises Stopped when it is not wanted any more."""

    def wait(wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_EVERY_S))
            if not is_wanted():
                raise Stopped

    return allocations.watch(title, seconds, wait)
