"""The rival: plain aio-pika, consuming as in its documentation, with the same JSON handler."""

from __future__ import annotations

import asyncio
import os
import signal

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from bench.stopwatch import Stopwatch

stopwatch = Stopwatch.from_environment()


async def consume(message: AbstractIncomingMessage) -> None:
    """Decode, count and ack a message."""
    orjson.loads(message.body)
    stopwatch.count()
    await message.ack()


async def main() -> None:
    """Consume until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    connection = await aio_pika.connect(os.environ["MXWORKER_BROKER_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1000)
        queue = await channel.get_queue(os.environ["BENCH_QUEUE"])
        await queue.consume(consume)
        await stopped.wait()


asyncio.run(main())
