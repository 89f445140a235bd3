"""Consume as https://github.com/mosquito/aiormq#worker shows: a callback that acks."""

import json

import aiormq
from aiormq.abc import DeliveredMessage

from bench.client import job, loops
from bench.client.stopwatch import Stopwatch

stopwatch = Stopwatch()


async def consume(message: DeliveredMessage) -> None:
    """Decode, count and ack a message."""
    json.loads(message.body)
    stopwatch.count()
    await message.channel.basic_ack(message.delivery.delivery_tag)


async def main() -> None:
    """Consume until SIGTERM."""
    async with await aiormq.connect(job.URL) as connection:
        channel = await connection.channel()
        if job.PREFETCH:
            await channel.basic_qos(prefetch_count=job.PREFETCH)
        await channel.basic_consume(job.QUEUE, consume)
        await loops.until_stopped()


loops.run(main())
