"""The applications with which mxworker drains a queue: handlers that do nothing but count, and a relay."""

from dataclasses import dataclass
from typing import Any

from bench.client import job
from bench.client.stopwatch import Stopwatch
from mxworker import Context, Handlers, Queue
from mxworker.api.middleware import CallNext

as_bytes, as_json, typed, with_middleware, batches, relay = (Handlers() for _ in range(6))
LIMITS = {"concurrency": job.CONCURRENCY, "prefetch": job.PREFETCH} if job.PREFETCH else {}
stopwatch = Stopwatch()
queue = Queue(job.QUEUE, type=job.QUEUE_TYPE, dead_letter=False)  # type: ignore[arg-type]


@dataclass(slots=True)
class Order:
    """The payload, see `bench.client.payload`."""

    id: int
    customer: str
    total: float
    note: str


@as_bytes.consume(queue, **LIMITS, retry=None)
async def consume_bytes(payload: bytes) -> None:
    """Do nothing but count."""
    stopwatch.count()


@as_json.consume(queue, **LIMITS, retry=None)
@with_middleware.consume(queue, **LIMITS, retry=None)
async def consume_json(payload: dict) -> None:  # type: ignore[type-arg]
    """Do nothing but count."""
    stopwatch.count()


@typed.consume(queue, **LIMITS, retry=None)
async def consume_typed(payload: Order) -> None:
    """Do nothing but count."""
    stopwatch.count()


@with_middleware.middleware
async def audit(payload: Any, ctx: Context, call_next: CallNext) -> Any:
    """Do nothing but call the handler."""
    return await call_next(payload, ctx)


@batches.consume_batch(queue, size=100, prefetch=job.PREFETCH or None, retry=None)
async def consume_batch(payloads: list[dict]) -> None:  # type: ignore[type-arg]
    """Do nothing but count."""
    for _ in payloads:
        stopwatch.count()


@relay.consume(queue, **LIMITS, retry=None)
async def pass_on(payload: dict, ctx: Context) -> None:  # type: ignore[type-arg]
    """Publish the payload to the other queue; the ack waits for the confirm."""
    await ctx.publisher.publish(payload, routing_key=job.TARGET)
    stopwatch.count()
