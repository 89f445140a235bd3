"""Plain aio-pika with publisher confirms and one task per message, as in its documentation."""

import asyncio
import json
import uuid

import aio_pika

from bench.client import job
from bench.client.pace import run
from bench.client.payload import payload


async def main() -> None:
    """Publish as the job asks."""
    body = payload(job.BODY_BYTES)
    connection = await aio_pika.connect(job.URL)
    async with connection:
        channel = await connection.channel(on_return_raises=True)

        async def publish() -> None:
            message = aio_pika.Message(
                json.dumps(body).encode(),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=uuid.uuid4().hex,
            )
            await channel.default_exchange.publish(message, routing_key=job.QUEUE)

        await run(lambda: asyncio.create_task(publish()))


asyncio.run(main())
