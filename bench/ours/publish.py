"""mxworker's publisher: each message is encoded as JSON, and gets an id and a receipt.

As with the other clients, the channels are open before the clocks start.
"""

import asyncio

from bench.client import job
from bench.client.pace import run
from bench.client.payload import payload
from mxworker import Publisher, PublisherSettings
from mxworker.worker.loops import new_loop
from tests.harness.waiting import until

_SOON_S = 30.0


async def main() -> None:
    """Publish as the job asks."""
    body, settings = payload(job.BODY_BYTES), PublisherSettings(timeout_s=60.0)
    async with Publisher.connect(job.URL, settings=settings) as publisher:
        await until(lambda: publisher.stats.open_channels == settings.channels, _SOON_S, "the channels")
        await run(lambda: publisher.publish_nowait(body, routing_key=job.QUEUE))


with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
