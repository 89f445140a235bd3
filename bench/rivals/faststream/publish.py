"""Publish with confirms and one task per message: https://faststream.ag2.ai/latest/rabbit/publishing/."""

import asyncio

from bench.client import job, loops
from bench.client.pace import run
from bench.client.payload import payload
from bench.rivals.faststream.app import broker, queue


async def main() -> None:
    """Publish as the job asks."""
    body = payload(job.BODY_BYTES)
    async with broker:
        await run(lambda: asyncio.create_task(broker.publish(body, queue=queue, persist=True)))


loops.run(main())
