"""Take samples of what all threads of this process do, weighted by the CPU time that each has used since the last one.

Sampling was chosen over cProfile, which calls a function at each call of the service: a busy worker pays half of its
time for that, and cProfile sees one thread alone. A sample costs some microseconds for each thread that has worked, and
nothing is paid between samples. Weights are CPU time, since threads that wait are most of the threads of a worker.

Samples are taken at the points where the interpreter lets another thread run. The time of a call into C that keeps
the interpreter's lock is attributed to the line of that call, or to one shortly after it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

from mxworker.worker.profiling.recording import Recording

LEAST_CPU_NS = 50_000
"""The time of a thread that used less since its last sample is added to its next sample."""
MOST_FRAMES = 200

_CLOCK_OF_THREAD = 0b110  # CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED, see clock_getcpuclockid(3) and linux/posix-timers.h


class Sampler:
    """Takes samples. Belongs to one thread, which it leaves out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, label_of: Callable[[asyncio.Task[Any]], str]) -> None:
        """`label_of` says for what a task of `loop` works; it is called from the thread of the sampler."""
        self.recording = Recording()
        self._loop = loop
        self._label_of = label_of
        self._cpu_ns: dict[int, int] = {}  # at the last sample of a thread, by the kernel's number of the thread

    def begin(self) -> None:
        """Note what each thread has used so far."""
        for thread in threading.enumerate():
            thread_id = _thread_id(thread)
            self._cpu_ns[thread_id] = _used_ns(thread_id) or 0

    def take(self) -> None:
        """Take a sample of each thread that has worked since its last one.

        Threads that the `threading` module does not know are left out: their CPU time cannot be read.
        """
        own = threading.get_ident()
        frames = sys._current_frames()
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            thread_id = _thread_id(thread)
            used_ns = _used_ns(thread_id)
            if frame is None or used_ns is None or thread.ident == own:
                continue
            cpu_ns = used_ns - self._cpu_ns.get(thread_id, 0)
            if cpu_ns >= LEAST_CPU_NS:
                self._cpu_ns[thread_id] = used_ns
                self._add(thread, thread_id, frame, cpu_ns)

    def _add(self, thread: threading.Thread, thread_id: int, frame: FrameType, cpu_ns: int) -> None:
        is_loops = thread is threading.main_thread()
        name, label = (f"{thread.name} (event loop)", self._label()) if is_loops else (thread.name, "")
        self.recording.add(thread_id, name, label, (frame.f_lineno, _codes(frame)), cpu_ns)

    def _label(self) -> str:
        with suppress(RuntimeError):
            task = asyncio.current_task(self._loop)
            if task is not None:
                return self._label_of(task)
        return ""


def _codes(frame: FrameType | None) -> tuple[CodeType, ...]:
    codes: list[CodeType] = []
    while frame is not None and len(codes) < MOST_FRAMES:
        codes.append(frame.f_code)
        frame = frame.f_back
    return tuple(codes)


def _thread_id(thread: threading.Thread) -> int:
    """Return the kernel's number of a thread, 0 when it has none yet.

    That of the main thread is the pid. Its `native_id` is that of the parent after a fork, in Python 3.11 at least.
    """
    return os.getpid() if thread is threading.main_thread() else thread.native_id or 0


def _used_ns(thread_id: int) -> int | None:
    """Return the CPU time of a thread, None when it has ended.

    The clock is made of the kernel's number of the thread: `time.pthread_getcpuclockid` may crash for a thread that
    has just ended, while the kernel refuses a number that is no thread of this process.
    """
    if not thread_id:
        return None  # the kernel would take 0 for the calling thread
    try:
        return time.clock_gettime_ns((~thread_id << 3) | _CLOCK_OF_THREAD)
    except OSError:
        return None
