"""Measure by how much a process grows for N unconfirmed publishes: `python -m bench.ours.unconfirmed`.

It publishes some messages to warm up, and prints a line. The benchmark then blocks the connection, so that no confirm
comes back, and writes a line to stdin.
"""

import asyncio
import json
import os
import sys

from bench.client.payload import payload
from bench.sizes import size_of
from mxworker import Publisher
from mxworker.worker.loops import new_loop

WARM_UP = 2_000
SETTLE_S = 1.0


async def main() -> None:
    """Publish without a confirm and print the growth."""
    body, queue = payload(256), os.environ["BENCH_QUEUE"]
    async with Publisher.connect(os.environ["BENCH_URL"], timeout_s=60.0) as publisher:
        await publisher.publish_many([body] * WARM_UP, routing_key=queue)
        print("warm", flush=True)
        sys.stdin.readline()
        before = size_of("self").pss_bytes
        messages = int(os.environ["BENCH_MESSAGES"])
        receipts = [publisher.publish_nowait(body, routing_key=queue) for _ in range(messages)]
        await asyncio.sleep(SETTLE_S)  # now all messages are written
        still_open = sum(not receipt.done() for receipt in receipts)
        print(json.dumps({"unconfirmed": still_open, "grown": size_of("self").pss_bytes - before}), flush=True)
        sys.stdin.readline()


with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
