"""Consume with a subscriber; FastStream acks after it. https://faststream.ag2.ai/latest/rabbit/ack/."""

from typing import Any

from faststream import FastStream

from bench.client import loops
from bench.client.stopwatch import Stopwatch
from bench.rivals.faststream.app import broker, queue

stopwatch = Stopwatch()


@broker.subscriber(queue)
async def consume(payload: dict[str, Any]) -> None:
    """Do nothing but count."""
    stopwatch.count()


loops.run(FastStream(broker).run())
