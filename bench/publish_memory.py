"""Measure the memory of N unconfirmed publishes in the process that publishes.

    BENCH_UNCONFIRMED=10000 python -m bench.publish_memory

The process publishes some messages to warm up, and prints a line. The benchmark then blocks the connection, so that no
confirm comes back, and writes a line to stdin.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from bench.client.payload import payload
from mxworker import Publisher

BODY = payload(256)
WARM_UP = 2_000
SETTLE_S = 1.0


def resident_bytes() -> int:
    """Return the resident set size of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def main() -> None:
    """Publish without a confirm and print the growth."""
    unconfirmed = int(os.environ["BENCH_UNCONFIRMED"])
    queue = os.environ["BENCH_QUEUE"]
    async with Publisher.connect(os.environ["MXWORKER_BROKER_URL"], timeout_s=60.0) as publisher:
        await publisher.publish_many([BODY] * WARM_UP, routing_key=queue)
        print("warm", flush=True)
        sys.stdin.readline()
        before = resident_bytes()
        receipts = [publisher.publish_nowait(BODY, routing_key=queue) for _ in range(unconfirmed)]
        await asyncio.sleep(SETTLE_S)  # now all messages are written
        still_open = sum(not receipt.done() for receipt in receipts)
        print(json.dumps({"unconfirmed": still_open, "grown_bytes": resident_bytes() - before}), flush=True)
        sys.stdin.readline()


asyncio.run(main())
