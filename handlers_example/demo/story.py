"""The steps of the demo, from the first process to the summary."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from handlers_example import warehouse
from handlers_example.demo.accounts import ATTEMPTS, NOWHERE, DeadLetter, Ends, differences, expected
from handlers_example.demo.broker import Broker, connected
from handlers_example.demo.orders import samples
from handlers_example.demo.progress import Progress
from handlers_example.demo.service import Service, running
from handlers_example.demo.summary import Summary
from handlers_example.demo.times import Execution
from mxworker.brokers import BrokerUrl

APP = "handlers_example.demo.app"
WORKERS = 2

_LOOK_EVERY_S = 0.3
_SHOWN_DIFFERENCES = 12


class DemoFailed(Exception):
    """An order has not met its right end, or the demo could not find out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of the demo.

    `folder` gets the files of the shop and the log of the service. `patience_s` bounds the time without any progress,
    and not the whole run, which may take long on a slow machine.
    """

    url: BrokerUrl
    orders: int
    folder: Path
    patience_s: float


async def demonstrate(plan: Plan) -> Summary:
    """Run the demo.

    The service is always stopped, and the queues are deleted. Raises DemoFailed, ServiceFailed, PublishError or
    BrokerError.
    """
    prefix, times = f"mxworker-demo-{uuid.uuid4().hex[:8]}-", plan.folder / "times.txt"
    env = {
        "MXWORKER_BROKER_URL": plan.url.dsn,
        "SHOP_PREFIX": prefix,
        "SHOP_FOLDER": str(plan.folder),
        "DEMO_TIMES": str(times),
    }
    async with (
        connected(plan.url, prefix) as broker,
        running(APP, WORKERS, env, plan.folder / "service.log") as service,
    ):
        await service.wait_ready()
        if service.page is not None:
            print(f"  its page, until the end of the demo: {service.page}", file=sys.stderr)
        feeding = _Feeding(plan, broker, service)
        took_s = await feeding.run()
        await service.stop()
        await feeding.look()
        if wrong := feeding.wrong():
            raise _failure("the accounts do not balance.", wrong)
    executions = [Execution.parse(line) for line in times.read_text().splitlines()]
    return Summary(feeding.right, took_s, executions, feeding.dead_letters)


class _Feeding:
    """Sends the orders, and waits until each has met its end.

    `right` holds the expected ends, `found` the ends at the last look.
    """

    def __init__(self, plan: Plan, broker: Broker, service: Service) -> None:
        self.right = expected(samples(plan.orders))
        self.found = NOWHERE
        self.dead_letters: list[DeadLetter] = []
        self._plan = plan
        self._broker = broker
        self._service = service

    async def run(self) -> float:
        """Run to the end, and return the seconds from the first order sent to the last one done."""
        began_at = time.monotonic()
        sending = asyncio.create_task(self._broker.send(samples(self._plan.orders), "orders"))
        try:
            await self._watch(sending)
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await sending
        return time.monotonic() - began_at

    async def _watch(self, sending: asyncio.Task[None]) -> None:
        last, moved_at = None, time.monotonic()
        with closing(Progress(self.right.count(self._plan.orders))) as progress:
            while not (sending.done() and self.found.covers(self.right)):  # the last confirm may come after the ends
                await self._service.pause(_LOOK_EVERY_S)
                if sending.done():
                    sending.result()
                await self.look()
                count, now = self.found.count(self._broker.sent), time.monotonic()
                progress.show(count)
                if count != last:
                    last, moved_at = count, now
                elif now - moved_at > self._plan.patience_s:
                    raise _failure(f"nothing has moved for {self._plan.patience_s:g} s.", self.wrong())

    async def look(self) -> None:
        """Find the ends that the orders have met."""
        for queue in ATTEMPTS:
            self.dead_letters += await self._broker.take_dead_letters(queue)
        folder = self._plan.folder
        self.found = Ends(
            invoiced=_written(folder / "invoices", ".json"),
            labelled=_written(folder / "labels", ".png"),
            booked=_booked(folder),
            refused=self._died_in("orders"),
            unpaid=self._died_in("payments"),
            by_truck=self._died_in("stock"),
        )

    def wrong(self) -> list[str]:
        """Return the differences at the last look; see `accounts.differences`."""
        return differences(self.right, self.found, self.dead_letters)

    def _died_in(self, queue: str) -> frozenset[str]:
        return frozenset(letter.id for letter in self.dead_letters if letter.queue == queue)


def _failure(what: str, wrong: list[str]) -> DemoFailed:
    return DemoFailed("\n  ".join([what, *wrong[:_SHOWN_DIFFERENCES]]))


def _written(folder: Path, suffix: str) -> frozenset[str]:
    """Return the ids of the orders that have a file; unfinished drafts have another suffix."""
    names = os.listdir(folder)  # noqa: PTH208  ten times faster than glob
    return frozenset(name.removesuffix(suffix) for name in names if name.endswith(suffix))


def _booked(folder: Path) -> frozenset[str]:
    with warehouse.opened(folder / "stock.sqlite") as opened:
        return frozenset(opened.booked())
