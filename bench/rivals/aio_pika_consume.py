"""Plain aio-pika, consuming as in its documentation."""

from __future__ import annotations

import asyncio
import json
import signal

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from bench.client import job
from bench.client.stopwatch import Stopwatch

stopwatch = Stopwatch()


async def consume(message: AbstractIncomingMessage) -> None:
    """Decode, count and ack a message."""
    json.loads(message.body)
    stopwatch.count()
    await message.ack()


async def main() -> None:
    """Consume until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    connection = await aio_pika.connect(job.URL)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=job.PREFETCH)
        queue = await channel.get_queue(job.QUEUE)
        await queue.consume(consume)
        await stopped.wait()


asyncio.run(main())
