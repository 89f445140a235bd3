"""Measure the cost of a delivery in the worker alone: bytes into the transport and acks out of it, without a socket.

    python -m bench.in_process [--messages 20000] [--concurrency 32 --prefetch 64] [--instructions]
                               [--without-metrics] [--timestamps] [SCENARIO ...]

The scenarios are the registries of `bench/ours/consume_app.py`. Each read brings up to 50 deliveries of 256 bytes,
within the prefetch, to handlers that do nothing. The benchmark prints the lowest CPU time per message of all rounds.
Concurrency and prefetch default to 1000; batches keep their own.

`--instructions` counts the instructions per message instead, by valgrind, which must be installed. Their number does
not depend on the load of the machine, so it shows the effect of a small change. `--without-metrics` counts outcomes
alone, and no times, ages and bytes. With `--timestamps` each message has the time at which it was published.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench.contenders import Job, Work
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.transport import DataPlane
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.amqp.protocol.frames import BASIC_DELIVER, FRAME_BODY, FRAME_HEADER, FRAME_METHOD
from mxworker.api.handlers import Handlers, compile_handlers
from tests.harness.runners import at_work

SCENARIOS = ("as_bytes", "as_json", "typed", "with_middleware", "batches")
ROUNDS = 5
BODY_BYTES = 256
READ_MESSAGES = 50
COUNTED = 2000  # messages whose instructions are counted: a multiple of a batch
HELD_BYTES = 512 * 1024 * 1024
BODY_CAP_BYTES = 64 * 1024 * 1024
CHANNEL = 1


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, CHANNEL, len(payload)) + payload + b"\xce"


def _around_tag(has_timestamp: bool) -> tuple[bytes, bytes]:
    """Return the bytes before and after the delivery tag in the frames of a delivery."""
    tag = bytes(8)
    body = json.dumps({"id": 1, "customer": "c-1042", "total": 19.9}).encode().ljust(BODY_BYTES)
    consumer_tag, exchange, routing_key = b"\x1eamq.ctag-0123456789abcdefghijk", b"\0", b"\x0emxworker-bench"
    method = struct.pack(">I", BASIC_DELIVER) + consumer_tag + tag + b"\0" + exchange + routing_key
    flags, values = (0x1040, b"\2" + struct.pack(">Q", int(time.time()))) if has_timestamp else (0x1000, b"\2")
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + values
    before, after = _frame(FRAME_METHOD, method).split(tag, 1)
    return before, after + _frame(FRAME_HEADER, header) + _frame(FRAME_BODY, body)


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What a run is given."""

    concurrency: int
    prefetch: int
    without_metrics: bool
    timestamps: bool


class Wire:
    """Stands in for the transport, and counts the bytes written."""

    written_bytes = 0

    def write(self, data: bytes) -> None:
        """Count the bytes of acks."""
        self.written_bytes += len(data)

    def get_extra_info(self, name: str) -> None:
        """Return None, because there is no socket."""


class Broker:
    """Feeds deliveries into the transport, one read in each loop turn."""

    def __init__(self, registry: Handlers, bounds: Bounds) -> None:
        loop = asyncio.get_running_loop()
        (handler,) = compile_handlers(registry)
        if handler.batch is None:
            handler = dataclasses.replace(handler, concurrency=bounds.concurrency, prefetch=bounds.prefetch)
        runner = at_work(
            [handler], process_concurrency=bounds.concurrency, has_metrics=not bounds.without_metrics
        ).runner
        self._plane = DataPlane(asyncio.StreamReader(loop=loop), loop, BODY_CAP_BYTES)
        self._plane.connection_made(cast(asyncio.Transport, Wire()))
        self._plane.frames.started = True
        self._subscription = Subscription(
            cast(BrokerConnection, SimpleNamespace(plane=self._plane)),
            cast(Any, None),
            CHANNEL,
            handler.queue,
            runner.admit,
            ByteBudget(HELD_BYTES),
            lambda: None,
            lambda what: None,
        )
        self._plane.register(CHANNEL, self._subscription)
        self._prefetch = handler.prefetch
        self._around_tag = _around_tag(bounds.timestamps)
        self._tag = 0

    async def deliver(self, messages: int) -> float:
        """Deliver `messages` messages, wait until all are settled, and return the CPU seconds used."""
        subscription = self._subscription
        last = self._tag + messages
        begun = time.thread_time()
        while self._tag < last or subscription.unsettled:
            count = min(READ_MESSAGES, self._prefetch - subscription.unsettled, last - self._tag)
            if count:
                self._plane.data_received(self._read(count))
            await asyncio.sleep(0)
        return time.thread_time() - begun

    def _read(self, count: int) -> bytes:
        before, after = self._around_tag
        tags = range(self._tag + 1, self._tag + count + 1)
        self._tag += count
        return b"".join([part for tag in tags for part in (before, tag.to_bytes(8, "big"), after)])


def _broker(scenario: str, bounds: Bounds) -> Broker:
    os.environ |= Job(Work.CONSUME, sys.maxsize, queue="bench").environment(Path(os.devnull))
    from bench.ours import consume_app  # it reads these variables at its import

    return Broker(getattr(consume_app, scenario), bounds)


async def cpu_us(scenario: str, messages: int, rounds: int, bounds: Bounds) -> float:
    """Return the lowest CPU microseconds per message of all rounds."""
    broker = _broker(scenario, bounds)
    return min([await broker.deliver(messages) for _ in range(rounds)]) / messages * 1e6


async def under_valgrind(scenario: str, bounds: Bounds) -> None:
    """Deliver messages to warm up, then as many with their instructions counted."""
    broker = _broker(scenario, bounds)
    await broker.deliver(COUNTED)
    _switch_counting("on")
    await broker.deliver(COUNTED)
    _switch_counting("off")


def _switch_counting(on_or_off: str) -> None:
    subprocess.run(["callgrind_control", "-i", on_or_off, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


def instructions(scenario: str, bounds: Bounds) -> int:
    """Return the instructions per message."""
    numbers = ["--concurrency", str(bounds.concurrency), "--prefetch", str(bounds.prefetch)]
    switches = ["--without-metrics"] * bounds.without_metrics + ["--timestamps"] * bounds.timestamps
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={os.devnull}"]
    run = [sys.executable, "-m", "bench.in_process", "--under-valgrind", *numbers, *switches, scenario]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    ended = subprocess.run([*valgrind, *run], env=environment, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", ended.stderr)
    if found is None:
        raise SystemExit(ended.stderr)
    return int(found[1]) // COUNTED


def main() -> None:
    """Run the scenarios and print a line for each."""
    parser = argparse.ArgumentParser(description="Measure what a delivery costs the worker, without a socket.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS), default=SCENARIOS)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--concurrency", type=int, default=1000)
    parser.add_argument("--prefetch", type=int, default=1000)
    parser.add_argument("--without-metrics", action="store_true", help="count outcomes alone")
    parser.add_argument("--timestamps", action="store_true", help="send messages with a timestamp")
    parser.add_argument("--instructions", action="store_true", help="count instructions, with valgrind")
    parser.add_argument("--under-valgrind", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    bounds = Bounds(options.concurrency, options.prefetch, options.without_metrics, options.timestamps)
    for scenario in options.scenarios:
        if options.under_valgrind:
            asyncio.run(under_valgrind(scenario, bounds))
        elif options.instructions:
            print(f"{scenario:<10} {instructions(scenario, bounds):>9,} instructions/msg", flush=True)
        else:
            cost_us = asyncio.run(cpu_us(scenario, options.messages, options.rounds, bounds))
            print(f"{scenario:<10} {cost_us:>9.2f} us CPU/msg", flush=True)


if __name__ == "__main__":
    main()
