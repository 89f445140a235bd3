"""Measure how fast mxworker and plain aio-pika drain a preloaded queue, in turn, in one run.

    python -m bench.consume [--messages 50000] [--rounds 3] [--type classic|quorum] [--rival aio-pika ...]

In every round each rival drains a freshly filled queue in one process: 256-byte JSON bodies, prefetch 1000, a no-op
handler, and an ack after it. mxworker runs four ways: with objects, the same without metrics, with a dataclass and a
middleware, and in batches of 100. The benchmark prints messages per second and the client's CPU time per message, from
its first to its last message, and the ratios of the medians. Absolute figures depend on the machine; compare the
ratios.

The broker is the one in MXWORKER_BROKER_URL; `make bench` starts a private one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from bench.samples import OURS, Sample, measure, table
from tests.rabbit.client import Client

BODY_BYTES = 256
QUEUE = "mxworker-bench"


def _mxworker(registry: str, module: str = "mxworker") -> list[str]:
    """Return the command that runs one registry of the application in one worker."""
    run = [sys.executable, "-m", module, "run", f"bench.consume_app:{registry}", "--app-dir", "."]
    return [
        *run,
        "--name",
        f"bench-{os.getpid()}",
        "--workers",
        "1",
        "--process-concurrency",
        "1000",
        "--log-level",
        "warning",
    ]


COMMANDS = {
    OURS: _mxworker("handlers"),
    "... without metrics": _mxworker("handlers", "bench.without_metrics"),
    "... typed": _mxworker("typed"),
    "... batches": _mxworker("batches"),
    "aio-pika": [sys.executable, "-m", "bench.rival_aio_pika"],
}


def fill(url: str, messages: int, queue_type: str) -> None:
    """Recreate the queue and publish `messages` confirmed messages to it."""
    with Client(url) as client:
        client.delete(QUEUE)
        client.declare(QUEUE, arguments={"x-queue-type": queue_type})
        bodies = (
            json.dumps({"id": number, "customer": "c-1042", "total": 19.9}).encode().ljust(BODY_BYTES)
            for number in range(messages)
        )
        client.publish(QUEUE, bodies)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description="Drain a preloaded queue with mxworker and its rivals.")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--type", choices=["classic", "quorum"], default="classic")
    parser.add_argument(
        "--rival", action="append", default=[], help="measure one more rival, given as NAME=COMMAND, in the same run"
    )
    options = parser.parse_args()
    url = os.environ.get("MXWORKER_BROKER_URL") or sys.exit("set MXWORKER_BROKER_URL, or use `make bench`")
    rivals = COMMANDS | {
        name: command.split() for name, _, command in (rival.partition("=") for rival in options.rival)
    }
    settings = {"QUEUE": QUEUE, "TYPE": options.type}
    samples: dict[str, list[Sample]] = {name: [] for name in rivals}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, options.rounds + 1):
            for name, command in rivals.items():
                fill(url, options.messages, options.type)
                sample = measure(command, settings, options.messages, Path(folder))
                samples[name].append(sample)
                print(
                    f"round {number}  {name:<19} {sample.rate:>9,.0f} msg/s  {sample.cpu_us:>6.1f} us CPU/msg",
                    flush=True,
                )
    with Client(url) as client:
        client.delete(QUEUE)
    print(f"\n{table(samples)}")


if __name__ == "__main__":
    main()
