"""A worker in the test's own event loop, on a real broker, without a master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mxworker import Handlers, Queue
from mxworker.api.handlers import compile_handlers
from mxworker.board.lifecycle import WorkerState
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.errors import ExitCode
from mxworker.worker.assembly import assemble
from mxworker.worker.service import Service
from tests.harness.counts import counted
from tests.harness.waiting import until
from tests.rabbit.client import Client

_SETTLED_WITHIN_S = 60.0


class Worker:
    """A service in this event loop, and its slot of the board."""

    def __init__(self, service: Service, board: Board) -> None:
        self.service = service
        self.board = board
        self.slot = board.slot(1)

    def count(self, outcome: Outcome) -> int:
        return counted(self.slot, outcome)

    async def settle_one(self, admin: Client, queue: str, outcome: Outcome = Outcome.ACK) -> None:
        """Publish a message to `queue`, and wait until one more is counted as `outcome`."""
        before = self.count(outcome)
        admin.publish(queue, [b"1"])
        await until(lambda: self.count(outcome) == before + 1, _SETTLED_WITHIN_S, f"one more in {outcome.name}")


class Holding:
    """Handlers whose only one notes the body of each message it starts, and ends when `release` is set."""

    def __init__(self, queue: str | Queue, **options: Any) -> None:
        self.handlers = Handlers()
        self.started: list[bytes] = []
        self.release = asyncio.Event()

        @self.handlers.consume(queue, **options)
        async def hold(body: bytes) -> None:
            self.started.append(body)
            await self.release.wait()


@asynccontextmanager
async def running(
    url: str,
    handlers: Handlers,
    ends_with: ExitCode = ExitCode.OK,
    wait_until_ready: bool = True,
    board: Board | None = None,
    **settings: Any,
) -> AsyncIterator[Worker]:
    """Run the handlers until the block ends, then drain; the service must end as expected.

    With the `board` of one that ended it takes its place.
    """
    board = board or Board(1)
    board.slot(1).write_state(WorkerState.BOOTING)
    consumption = Consumption(app="test", brokers=Brokers.parse([url]), **settings)
    service = assemble(consumption, compile_handlers(handlers), board.slot(1), lambda: True, lambda state: None)
    task = asyncio.create_task(service.run())
    if wait_until_ready:
        await until(lambda: service.state is WorkerState.READY or task.done(), 15, "the worker to be ready")
    try:
        yield Worker(service, board)
    except BaseException:
        service.request_cut()  # not left to the end of the loop, which cancels what it needs to leave
        await asyncio.wait({task}, timeout=10)
        raise
    service.request_stop()
    assert await asyncio.wait_for(task, 40) is ends_with
