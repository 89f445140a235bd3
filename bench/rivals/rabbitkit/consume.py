"""Consume with a subscriber, as https://github.com/talaatmagdyx/rabbitkit#quick-start shows; it acks after it."""

from bench.client import job, loops
from bench.client.stopwatch import Stopwatch
from bench.rivals.rabbitkit.app import broker

stopwatch = Stopwatch()


@broker.subscriber(queue=job.QUEUE)
async def consume(payload: dict) -> None:  # type: ignore[type-arg]
    """Do nothing but count."""
    stopwatch.count()


loops.run(broker.run())
