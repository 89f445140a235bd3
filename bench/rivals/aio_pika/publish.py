"""Publish with confirms and one task per message.

See https://docs.aio-pika.com/rabbitmq-tutorial/7-publisher-confirms.html, "Handling Publisher Confirms Asynchronously".
"""

import asyncio
import json

import aio_pika

from bench.client import job, loops
from bench.client.pace import run
from bench.client.payload import payload
from bench.rivals.aio_pika.message import persistent


async def main() -> None:
    """Publish as the job asks."""
    body = payload(job.BODY_BYTES)
    async with await aio_pika.connect(job.URL) as connection:
        channel = await connection.channel(on_return_raises=True)

        async def publish() -> None:
            await channel.default_exchange.publish(persistent(json.dumps(body).encode()), routing_key=job.QUEUE)

        await run(lambda: asyncio.create_task(publish()))


loops.run(main())
