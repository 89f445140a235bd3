"""What the demo does, from the first process to the summary."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from handlers_example.demo.broker import Broker, connected
from handlers_example.demo.orders import bad_among, samples
from handlers_example.demo.progress import Count, Progress
from handlers_example.demo.service import Service, running
from mxworker.brokers import BrokerUrl

APP = "handlers_example.demo.app"
WORKERS = 2

_LOOK_EVERY_S = 0.1
_PATIENCE_S = 30.0  # without any progress; a slow machine may take as long as it likes


class DemoFailed(Exception):
    """The promise was not kept, or could not be seen to be kept."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a whole run came to."""

    count: Count
    took_s: float
    handler_times_s: list[float]
    invoices: Path

    def __str__(self) -> str:
        percentiles = statistics.quantiles(self.handler_times_s, n=20)
        p50_ms, p95_ms = 1000 * percentiles[9], 1000 * percentiles[18]
        return "\n".join(
            (
                f"  sent          {self.count.sent:>7,}   orders",
                f"  handled       {self.count.handled:>7,}   invoices in {self.invoices}",
                f"  refused       {self.count.refused:>7,}   bad orders, to the dead-letter queue",
                f"  speed         {self.count.done / self.took_s:>7,.0f}   messages per second, "
                f"from the first sent to the last settled ({self.took_s:.1f} s)",
                f"  handler time  {p50_ms:>7.2f}   ms p50, {p95_ms:.2f} ms p95",
            )
        )


async def demonstrate(url: BrokerUrl, orders: int, folder: Path) -> Summary:
    """Run the demo with `orders` orders; `folder` takes the invoices, the service's log and the handler times.

    Raises DemoFailed, ServiceFailed or BrokerError. In any case the service is stopped and the queues are deleted.
    """
    queue = f"mxworker-demo-{uuid.uuid4().hex[:8]}"
    invoices, times = folder / "invoices", folder / "handler-seconds.txt"
    invoices.mkdir()
    env = {"DEMO_QUEUE": queue, "DEMO_TIMES": str(times), "SHOP_INVOICES": str(invoices)}
    async with connected(url, queue) as broker, running(APP, WORKERS, env, folder / "service.log") as service:
        await service.wait_ready()
        took_s = await _feed(broker, service, invoices, orders)
        await service.stop()
        count = await _count(broker, invoices)
        _judge(count, orders, await broker.waiting())
    return Summary(count, took_s, [float(line) for line in times.read_text().split()], invoices)


async def _feed(broker: Broker, service: Service, invoices: Path, orders: int) -> float:
    """Send the orders and wait until each was handled or refused; return the seconds from the first to the last."""
    started_at = time.monotonic()
    sending = asyncio.create_task(broker.send(samples(orders)))
    try:
        await _watch(broker, service, invoices, orders, sending)
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await sending
    return time.monotonic() - started_at


async def _watch(broker: Broker, service: Service, invoices: Path, orders: int, sending: asyncio.Task[None]) -> None:
    progress = Progress(orders)
    last, moved_at = Count(0, 0, 0), time.monotonic()
    try:
        while last.done < orders or not sending.done():  # the last confirm may come after the last invoice
            await service.pause(_LOOK_EVERY_S)
            if sending.done():
                sending.result()
            count, now = await _count(broker, invoices), time.monotonic()
            progress.show(count)
            if count != last:
                last, moved_at = count, now
            elif now - moved_at > _PATIENCE_S:
                raise DemoFailed(f"nothing has moved for {_PATIENCE_S:g} s: {last}, of {orders:,} orders.")
    finally:
        progress.close()


async def _count(broker: Broker, invoices: Path) -> Count:
    handled, refused = _written(invoices), await broker.refused()
    return Count(broker.sent, handled, refused)


def _written(invoices: Path) -> int:
    """Return how many invoices there are; unfinished drafts have another suffix."""
    return sum(name.endswith(".json") for name in os.listdir(invoices))  # noqa: PTH208  ten times faster than glob


def _judge(count: Count, orders: int, waiting: int) -> None:
    """Raise DemoFailed unless every good order has its invoice, every bad one was refused and nothing is left."""
    bad = bad_among(orders)
    expected = Count(orders, orders - bad, bad)
    if count != expected or waiting:
        raise DemoFailed(f"the count is wrong.\n  expected  {expected}\n  found     {count}, and {waiting} not handled")
