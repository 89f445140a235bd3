"""The applications with which `bench/consume.py` drains a queue: no-op handlers that time themselves.

`handlers` takes JSON objects, `typed` takes dataclasses through one middleware, and `batches` takes lists of up to 100
JSON objects.
"""

import os
from dataclasses import dataclass
from typing import Any

from bench.stopwatch import Stopwatch
from mxworker import Context, Handlers, Queue
from mxworker.api.middleware import CallNext

HELD = 1000

handlers = Handlers()
typed = Handlers()
batches = Handlers()
stopwatch = Stopwatch.from_environment()
queue = Queue(os.environ["BENCH_QUEUE"], type=os.environ["BENCH_TYPE"], dead_letter=False)  # type: ignore[arg-type]


@dataclass(slots=True)
class Order:
    """The payload that `bench.consume.fill` publishes."""

    id: int
    customer: str
    total: float


@handlers.consume(queue, concurrency=HELD, prefetch=HELD, retry=None)
async def consume(payload: dict) -> None:  # type: ignore[type-arg]
    """Do nothing but count."""
    stopwatch.count()


@typed.middleware
async def audit(payload: Any, ctx: Context, call_next: CallNext) -> Any:
    """Do nothing but call the handler."""
    return await call_next(payload, ctx)


@typed.consume(queue, concurrency=HELD, prefetch=HELD, retry=None)
async def consume_typed(payload: Order) -> None:
    """Do nothing but count."""
    stopwatch.count()


@batches.consume_batch(queue, size=100, prefetch=HELD, retry=None)
async def consume_batch(payloads: list[dict]) -> None:  # type: ignore[type-arg]
    """Do nothing but count."""
    for _ in payloads:
        stopwatch.count()
