"""Publish with confirms, https://github.com/mosquito/aiormq#publishing-messages, and one task per message."""

import asyncio
import json

import aiormq

from bench.client import job, loops
from bench.client.pace import run
from bench.client.payload import payload


async def main() -> None:
    """Publish as the job asks. A message that is returned raises."""
    body = payload(job.BODY_BYTES)
    async with await aiormq.connect(job.URL) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)

        async def publish() -> None:
            await channel.basic_publish(
                json.dumps(body).encode(),
                routing_key=job.QUEUE,
                properties=aiormq.spec.Basic.Properties(content_type="application/json", delivery_mode=2),
                mandatory=True,
            )

        await run(lambda: asyncio.create_task(publish()))


loops.run(main())
