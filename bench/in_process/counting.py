"""The instructions that a message takes, counted by valgrind, which must be installed.

`python -m bench.in_process.counting WAY CONCURRENCY PREFETCH [--without-metrics] [--timestamps]` is the process under
valgrind. Its event loop is asyncio's, whose instructions are the same in every run.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys

from bench.in_process.consuming import Bounds
from bench.in_process.ways import flow

COUNTED = 2000
"""How many messages are counted, after as many to warm up: a multiple of a batch."""
_DEADLINE_S = 300.0


def can_count() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None


def instructions(way: str, bounds: Bounds) -> int:
    """Return the instructions per message. Raises RuntimeError with what valgrind said when it fails."""
    switches = ["--without-metrics"] * bounds.without_metrics + ["--timestamps"] * bounds.timestamps
    numbers = [str(bounds.concurrency), str(bounds.prefetch)]
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={os.devnull}"]
    run = [sys.executable, "-m", "bench.in_process.counting", way, *numbers, *switches]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    ended = subprocess.run(
        [*valgrind, *run], env=environment, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    found = re.search(r"Collected : (\d+)", ended.stderr)
    if found is None:
        raise RuntimeError(ended.stderr)
    return int(found[1]) // COUNTED


async def under_valgrind(way: str, bounds: Bounds) -> None:
    """Handle messages to warm up, then as many with their instructions counted."""
    made = await flow(way, bounds)
    await made.run(COUNTED)
    _switch("on")
    await made.run(COUNTED)
    _switch("off")
    await made.close()


def _switch(on_or_off: str) -> None:
    subprocess.run(["callgrind_control", "-i", on_or_off, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    _way, _concurrency, _prefetch, *_switches = sys.argv[1:]
    _bounds = Bounds(int(_concurrency), int(_prefetch), "--without-metrics" in _switches, "--timestamps" in _switches)
    asyncio.run(under_valgrind(_way, _bounds))
