"""Kick a task; `kiq` returns when RabbitMQ has confirmed the message. One asyncio task per message."""

import asyncio

from bench.client import job, loops
from bench.client.pace import run
from bench.client.payload import payload
from bench.rivals.taskiq.app import broker, consume


async def main() -> None:
    """Publish as the job asks."""
    body = payload(job.BODY_BYTES)
    await broker.startup()
    await run(lambda: asyncio.create_task(consume.kiq(body)))
    await broker.shutdown()


loops.run(main())
