"""mxworker's publisher: each message is encoded as JSON, and gets an id and a receipt."""

import asyncio

from bench.client import job
from bench.client.pace import run
from bench.client.payload import payload
from mxworker import Publisher
from mxworker.worker.loops import new_loop


async def main() -> None:
    """Publish as the job asks."""
    body = payload(job.BODY_BYTES)
    async with Publisher.connect(job.URL, timeout_s=60.0) as publisher:
        await run(lambda: publisher.publish_nowait(body, routing_key=job.QUEUE))


with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
