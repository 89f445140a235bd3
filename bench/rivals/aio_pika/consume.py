"""Consume as https://docs.aio-pika.com/rabbitmq-tutorial/2-work-queues.html shows: a callback that acks."""

import json

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from bench.client import job, loops
from bench.client.stopwatch import Stopwatch

stopwatch = Stopwatch()


async def consume(message: AbstractIncomingMessage) -> None:
    """Decode, count and ack a message."""
    json.loads(message.body)
    stopwatch.count()
    await message.ack()


async def main() -> None:
    """Consume until SIGTERM."""
    async with await aio_pika.connect(job.URL) as connection:
        channel = await connection.channel()
        if job.PREFETCH:
            await channel.set_qos(prefetch_count=job.PREFETCH)
        queue = await channel.get_queue(job.QUEUE)
        await queue.consume(consume)
        await loops.until_stopped()


loops.run(main())
