"""Consume, publish with a confirm, ack: with a connection for each direction, and a callback per message at a time.

aio-pika runs the callbacks as tasks, so as many messages as are prefetched are on their way at once.
"""

import json

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from bench.client import job, loops
from bench.client.stopwatch import Stopwatch
from bench.rivals.aio_pika.message import persistent


async def main() -> None:
    """Relay until SIGTERM."""
    stopwatch = Stopwatch()
    async with await aio_pika.connect(job.URL) as publishing, await aio_pika.connect(job.URL) as consuming:
        target = await publishing.channel(on_return_raises=True)

        async def pass_on(message: AbstractIncomingMessage) -> None:
            body = json.dumps(json.loads(message.body)).encode()
            await target.default_exchange.publish(persistent(body), routing_key=job.TARGET)
            stopwatch.count()
            await message.ack()

        source = await consuming.channel()
        await source.set_qos(prefetch_count=job.PREFETCH)
        queue = await source.get_queue(job.QUEUE)
        await queue.consume(pass_on)
        await loops.until_stopped()


loops.run(main())
