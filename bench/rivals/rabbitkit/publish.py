"""Publish, check the outcome, and one task per message: https://github.com/talaatmagdyx/rabbitkit#quick-start."""

import asyncio

from bench.client import job, loops
from bench.client.pace import run
from bench.client.payload import payload
from bench.rivals.rabbitkit.app import broker


async def main() -> None:
    """Publish as the job asks."""
    body = payload(job.BODY_BYTES)

    async def publish() -> None:
        (await broker.publish(routing_key=job.QUEUE, body=body)).raise_for_status()

    await broker.start(install_signal_handlers=False)
    await run(lambda: asyncio.create_task(publish()))
    await broker.stop()


loops.run(main())
