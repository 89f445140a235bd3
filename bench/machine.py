"""The facts without which figures mean little: the machine and its memory, the versions, the commit, the load."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.contenders import Unavailable
from bench.environments import versions
from bench.wire.server import compile_server
from tests.harness.repository import REPOSITORY
from tests.harness.wire import Wire

_WALK_BYTES = 512 * 1024 * 1024
_SMALL_BYTES = 16 * 1024  # fits into the fastest cache, so that what is left is the time of the loop
_STEPS = 200_000
_BYTES_PER_KIB = 1024


def facts(broker_url: Callable[[], str]) -> dict[str, Any]:
    """Return the facts of this machine, for the file of results."""
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": _commit(),
        "machine": {
            "cpu": _line_of("/proc/cpuinfo", "model name"),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(_memory_bytes() / 2**30, 1),
            "memory_latency_ns": round(memory_latency_ns()),
            "load": os.getloadavg()[0],
        },
        "kernel": platform.release().partition("-")[0],
        "system": _line_of("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "python": platform.python_version(),
        "packages": versions(sys.executable, "aio-pika", "aiormq", "orjson", "uvloop"),
        "broker": _broker(broker_url),
        "wire_server": "C" if compile_server() else "Python",
    }


def memory_latency_ns(size_bytes: int = _WALK_BYTES) -> float:
    """Return the time of one access to memory at random, beside what the loop takes.

    Each address depends on the byte read before it, so no access begins before the last one ended. The walk is as large
    as a quarter of the memory allows, and misses the caches of addresses too, as a large heap does.
    """
    size_bytes = min(size_bytes, 2 ** ((_memory_bytes() // 4).bit_length() - 1))
    return max(0.0, _step_ns(size_bytes) - _step_ns(_SMALL_BYTES))


def _step_ns(size_bytes: int) -> float:
    mask = size_bytes - 1
    memory = bytearray(b"\0") * size_bytes  # written, so that each page is one of its own
    at = 1
    begun = time.thread_time_ns()
    for _ in range(_STEPS):
        at = (at * 1_103_515_245 + 12_345 + memory[at]) & mask  # visits every address, in no order
    return (time.thread_time_ns() - begun) / _STEPS


def _commit() -> str:
    """Return the commit, with a plus when files differ from it."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        return found + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _broker(broker_url: Callable[[], str]) -> str:
    try:
        url = broker_url()
    except Unavailable as error:
        return f"not available: {error}"
    with Wire(url) as wire:
        return f"{wire.server_properties.get('product')} {wire.server_properties.get('version')}"


def _memory_bytes() -> int:
    return int(_line_of("/proc/meminfo", "MemTotal").split()[0]) * _BYTES_PER_KIB


def _line_of(path: str, name: str, separator: str = ":") -> str:
    """Return what a line of a file says after `name`; "unknown" without one."""
    lines = (line.partition(separator) for line in Path(path).read_text(encoding="utf-8").splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")
