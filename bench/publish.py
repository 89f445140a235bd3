"""Measure how fast mxworker and plain aio-pika publish confirmed messages, in turn, in one run.

    python -m bench.publish [--messages 30000] [--rounds 3] [--windows 1,100,1000,10000] [--rate 1667]
                            [--type classic|quorum] [--rival go=COMMAND ...]

Every message has 256 bytes and is persistent, mandatory and confirmed. The closed loops come first: at most a *window*
of messages is unconfirmed. In the open loop, one message is due every 1/RATE s, whatever happens, and the time to its
confirm counts from then. At the end the memory of 10,000 unconfirmed publishes is measured.

The broker is the one in MXWORKER_BROKER_URL; `make bench` starts a private one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from bench.samples import OURS, Sample, measure, table
from tests.harness.faults import TO_CLIENT
from tests.harness.proxy import Proxy
from tests.rabbit.client import Client

QUEUE = "mxworker-bench"
COMMANDS = {
    OURS: [sys.executable, "-m", "bench.publish_mxworker"],
    "aio-pika": [sys.executable, "-m", "bench.publish_aio_pika"],
}
OPEN_LOOP_S = 6
UNCONFIRMED = 10_000


def compare(
    url: str, rivals: dict[str, list[str]], settings: dict[str, str], messages: int, rounds: int, folder: Path
) -> str:
    """Let every rival publish in turn, in every round, and return the table."""
    samples: dict[str, list[Sample]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, command in rivals.items():
            with Client(url) as client:
                client.delete(QUEUE)
                client.declare(QUEUE, arguments={"x-queue-type": settings["TYPE"]})
            samples[name].append(measure(command, settings, messages, folder))
            with Client(url) as client:
                found = client.counts(QUEUE).messages
            if found != messages:
                raise SystemExit(f"{name} published {messages} messages, the queue holds {found}")
    return table(samples)


def memory(url: str) -> tuple[int, int]:
    """Return how many publishes were unconfirmed at once, and by how many bytes the process had grown."""
    parts = urlsplit(url)
    command = [sys.executable, "-m", "bench.publish_memory"]
    with Proxy(parts.hostname or "localhost", parts.port or 5672) as proxy:
        settings = {"MXWORKER_BROKER_URL": proxy.url(url), "BENCH_QUEUE": QUEUE, "BENCH_UNCONFIRMED": str(UNCONFIRMED)}
        with subprocess.Popen(
            command, env=os.environ | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            proxy.blackhole(TO_CLIENT)
            print(file=process.stdin, flush=True)
            found = json.loads(process.stdout.readline())
            proxy.heal()
            process.communicate("\n")
    return found["unconfirmed"], found["grown_bytes"]


def main() -> None:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description="Publish confirmed messages with mxworker and its rivals.")
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", default="1,100,1000,10000")
    parser.add_argument("--rate", type=float, default=1667.0, help="messages per second of the open loop")
    parser.add_argument("--type", choices=["classic", "quorum"], default="classic")
    parser.add_argument("--rival", action="append", default=[], help="measure one more rival, given as NAME=COMMAND")
    options = parser.parse_args()
    url = os.environ.get("MXWORKER_BROKER_URL") or sys.exit("set MXWORKER_BROKER_URL, or use `make bench`")
    rivals = COMMANDS | {
        name: command.split() for name, _, command in (rival.partition("=") for rival in options.rival)
    }
    with tempfile.TemporaryDirectory() as folder:
        for window in map(int, options.windows.split(",")):
            settings = {"QUEUE": QUEUE, "TYPE": options.type, "WINDOW": str(window), "RATE": "0"}
            messages = options.messages if window > 1 else max(1, options.messages // 10)
            print(f"\n{options.type} queue, window {window:,}, {messages:,} messages", flush=True)
            print(compare(url, rivals, settings, messages, options.rounds, Path(folder)), flush=True)
        settings = {"QUEUE": QUEUE, "TYPE": options.type, "WINDOW": "10000", "RATE": str(options.rate)}
        print(f"\n{options.type} queue, open loop at {options.rate:,.0f} msg/s", flush=True)
        print(compare(url, rivals, settings, int(options.rate * OPEN_LOOP_S), options.rounds, Path(folder)), flush=True)
    unconfirmed, grown_bytes = memory(url)
    print(f"\n{unconfirmed:,} unconfirmed publishes of mxworker: {grown_bytes / 1e6:.1f} MB more memory")
    with Client(url) as client:
        client.delete(QUEUE)


if __name__ == "__main__":
    main()
