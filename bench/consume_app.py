"""The application that `bench/consume.py` drains a queue with: a no-op handler of JSON payloads, timed from inside."""

import os

from bench.stopwatch import Stopwatch
from mxworker import Handlers, Queue

handlers = Handlers()
stopwatch = Stopwatch.from_environment()


@handlers.consume(
    Queue(os.environ["BENCH_QUEUE"], type=os.environ["BENCH_TYPE"], dead_letter=False),  # type: ignore[arg-type]
    concurrency=1000,
    prefetch=1000,
)
async def consume(payload: dict) -> None:  # type: ignore[type-arg]
    """Do nothing but count."""
    stopwatch.count()
