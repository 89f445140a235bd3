"""mxworker's publisher: each message is encoded as JSON, and gets an id and a receipt."""

import asyncio
import os

from bench.publish_pace import BODY, run, write
from mxworker import Publisher


async def main() -> None:
    """Publish as the benchmark asks."""
    queue = os.environ["BENCH_QUEUE"]
    async with Publisher.connect(os.environ["MXWORKER_BROKER_URL"], timeout_s=60.0) as publisher:
        write(await run(lambda: publisher.publish_nowait(BODY, routing_key=queue)))


asyncio.run(main())
