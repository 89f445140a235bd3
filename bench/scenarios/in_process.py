"""What a message costs mxworker itself, without a socket: CPU time and, where there is valgrind, instructions."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from bench.contenders import Unavailable
from bench.in_process.consuming import Bounds
from bench.in_process.counting import can_count, instructions
from bench.procedure import Procedure
from bench.scenario import Failed, Measures, Place, Scenario

MESSAGES = 20_000
DEFAULTS = Bounds(32, 64)
WAYS = ("as_json", "batches", "publish")


def cpu(place: Place, way: str, bounds: Bounds) -> Measures:
    """Return the CPU time of a message, in a process of its own."""
    numbers = [f"--concurrency={bounds.concurrency}", f"--prefetch={bounds.prefetch}", "--rounds=1"]
    command = [sys.executable, "-m", "bench.in_process", f"--messages={place.scaled(MESSAGES)}", *numbers, way]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Failed(ended.stderr[-600:])
    return {"cpu_us": float(ended.stdout.split()[1])}


def counted(place: Place, way: str, bounds: Bounds) -> Measures:
    """Return the instructions of a message."""
    if not can_count():
        raise Unavailable("valgrind is not installed")
    return {"instructions": instructions(way, bounds)}


IN_PROCESS: tuple[Scenario, ...] = (
    Scenario(
        "in-process",
        "CPU time of a message in mxworker itself, without a socket",
        (
            *(Procedure(way, partial(cpu, way=way, bounds=Bounds())) for way in WAYS),
            Procedure("as_json, 32 / 64", partial(cpu, way="as_json", bounds=DEFAULTS)),
        ),
        "cpu_us",
    ),
    Scenario(
        "instructions",
        "instructions of a message in mxworker itself, without a socket",
        (
            *(Procedure(way, partial(counted, way=way, bounds=Bounds())) for way in WAYS),
            Procedure("as_json, 32 / 64", partial(counted, way="as_json", bounds=DEFAULTS)),
        ),
        "instructions",
        is_exact=True,
    ),
)
