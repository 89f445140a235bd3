"""How fast a preloaded queue is drained: mxworker against raw aio-pika, in turn, in one run.

    python -m bench.consume [--messages 50000] [--rounds 3] [--type classic|quorum] [--rival aio-pika ...]

Every round fills the queue anew and lets each rival drain it in one process: 256-byte JSON bodies, prefetch 1000, a
no-op handler, an ack after it. Printed are messages per second and the client's own CPU time per message, between its
first and its last message, and the ratios of the medians. Absolute figures move with the machine; the ratios count.

The broker is the one in MXWORKER_BROKER_URL; `make bench` starts a private one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.rabbit.client import Client

BODY_BYTES = 256
QUEUE = "mxworker-bench"
DEADLINE_S = 300.0
OURS = "mxworker"
MXWORKER = [sys.executable, "-m", "mxworker", "run", "bench.consume_app:handlers", "--workers", "1", "--app-dir", "."]
COMMANDS = {
    OURS: [*MXWORKER, "--log-level", "warning"],
    "aio-pika": [sys.executable, "-m", "bench.rival_aio_pika"],
}


@dataclass(frozen=True)
class Sample:
    """One drained queue."""

    wall_s: float
    cpu_s: float
    messages: int

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per message, in the consuming process."""
        return self.cpu_s / self.messages * 1e6


def fill(url: str, messages: int, queue_type: str) -> None:
    """Make the queue anew and publish `messages` confirmed messages to it."""
    with Client(url) as client:
        client.delete(QUEUE)
        client.declare(QUEUE, arguments={"x-queue-type": queue_type})
        bodies = (
            json.dumps({"id": number, "customer": "c-1042", "total": 19.9}).encode().ljust(BODY_BYTES)
            for number in range(messages)
        )
        client.publish(QUEUE, bodies)


def drain(command: list[str], url: str, messages: int, queue_type: str, folder: Path) -> Sample:
    """Let one rival drain the queue; it reports when it has handled the last message."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    environment = os.environ | {
        "MXWORKER_BROKER_URL": url,
        "BENCH_QUEUE": QUEUE,
        "BENCH_TYPE": queue_type,
        "BENCH_MESSAGES": str(messages),
        "BENCH_REPORT": str(report),
    }
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not (report.exists() and report.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"{command} did not drain the queue (exit code {process.returncode})")
            time.sleep(0.05)
        process.terminate()
    return Sample(**json.loads(report.read_text()), messages=messages)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Drain a preloaded queue with mxworker and its rivals.")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--type", choices=["classic", "quorum"], default="classic")
    parser.add_argument(
        "--rival", action="append", default=[], help="NAME=COMMAND, to measure one more in the same run"
    )
    options = parser.parse_args()
    url = os.environ.get("MXWORKER_BROKER_URL") or sys.exit("set MXWORKER_BROKER_URL, or use `make bench`")
    rivals = COMMANDS | {
        name: command.split() for name, _, command in (rival.partition("=") for rival in options.rival)
    }
    samples: dict[str, list[Sample]] = {name: [] for name in rivals}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, options.rounds + 1):
            for name, command in rivals.items():
                fill(url, options.messages, options.type)
                sample = drain(command, url, options.messages, options.type, Path(folder))
                samples[name].append(sample)
                print(
                    f"round {number}  {name:<10} {sample.rate:>9,.0f} msg/s  {sample.cpu_us:>6.1f} us CPU/msg",
                    flush=True,
                )
    with Client(url) as client:
        client.delete(QUEUE)
    report(samples)


def report(samples: dict[str, list[Sample]]) -> None:
    """Print medians, and the ratios of ours to each rival's."""
    rates = {name: statistics.median(sample.rate for sample in taken) for name, taken in samples.items()}
    cpus = {name: statistics.median(sample.cpu_us for sample in taken) for name, taken in samples.items()}
    busy = {name: rates[name] * cpus[name] / 1e6 for name in samples}
    print(f"\n{'median':<12} {'msg/s':>9}  {'us CPU/msg':>10}  {'CPU busy':>8}  {'ours : it':>9}")
    for name in samples:
        ratio = rates[OURS] / rates[name]
        print(f"{name:<12} {rates[name]:>9,.0f}  {cpus[name]:>10.1f}  {busy[name]:>8.0%}  {ratio:>8.2f}x")


if __name__ == "__main__":
    main()
