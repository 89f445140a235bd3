"""Measure what a message costs mxworker itself, without a socket.

    python -m bench.in_process [--messages 20000] [--concurrency 32 --prefetch 64] [--instructions]
                               [--without-metrics] [--timestamps] [WAY ...]

A way is a registry of `bench/ours/consume_app.py`, or `publish`, for which the prefetch is the window. Each prints the
lowest CPU time per message of all rounds or, with `--instructions`, the instructions per message, counted by valgrind.
"""

from __future__ import annotations

import argparse

from bench.in_process.consuming import Bounds
from bench.in_process.counting import instructions
from bench.in_process.ways import WAYS, cpu_us

ROUNDS = 5


def main() -> None:
    """Measure each way and print a line for it."""
    parser = argparse.ArgumentParser(description="Measure what a message costs mxworker, without a socket.")
    parser.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS), default=WAYS)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--concurrency", type=int, default=1000)
    parser.add_argument("--prefetch", type=int, default=1000)
    parser.add_argument("--without-metrics", action="store_true", help="count outcomes alone")
    parser.add_argument("--timestamps", action="store_true", help="send messages with a timestamp")
    parser.add_argument("--instructions", action="store_true", help="count instructions, with valgrind")
    options = parser.parse_args()
    bounds = Bounds(options.concurrency, options.prefetch, options.without_metrics, options.timestamps)
    for way in options.ways:
        if options.instructions:
            print(f"{way:<16} {instructions(way, bounds):>9,} instructions/msg", flush=True)
        else:
            print(f"{way:<16} {cpu_us(way, bounds, options.messages, options.rounds):>9.2f} us CPU/msg", flush=True)


if __name__ == "__main__":
    main()
