"""The rival: plain aio-pika with publisher confirms and one task per message, as in its documentation."""

import asyncio
import os
import uuid

import aio_pika
import orjson

from bench.publish_pace import BODY, run, write


async def main() -> None:
    """Publish as the benchmark asks."""
    queue = os.environ["BENCH_QUEUE"]
    connection = await aio_pika.connect(os.environ["MXWORKER_BROKER_URL"])
    async with connection:
        channel = await connection.channel(on_return_raises=True)

        async def publish() -> None:
            message = aio_pika.Message(
                orjson.dumps(BODY),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=uuid.uuid4().hex,
            )
            await channel.default_exchange.publish(message, routing_key=queue)

        write(await run(lambda: asyncio.create_task(publish())))


asyncio.run(main())
