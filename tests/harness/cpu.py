"""The processes of `cpu=True` handlers, without a broker: an application in a file, and the pool that runs it."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from mxworker import Delivery, Handlers, Publisher
from mxworker.api.compilation import Handler
from mxworker.api.handlers import compile_handlers
from mxworker.api.settlement import Settlement
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.config.publisher import PublisherSettings
from mxworker.worker.cpu.pool import CpuPool
from mxworker.worker.cpu.protocol import MemberSettings
from mxworker.worker.handling.report import Report
from mxworker.worker.loading import load
from tests.harness.nowhere import Nowhere
from tests.harness.processes import Process
from tests.harness.service import write_app

WORKER = 7


class Cpu:
    """An application, and the processes that execute its handlers."""

    def __init__(self, pool: CpuPool, handlers: Handlers) -> None:
        self.pool = pool
        self.handlers = handlers
        self.seen: set[Process] = set()

    def handler(self, queue: str) -> Handler:
        return next(handler for handler in compile_handlers(self.handlers) if handler.queue.name == queue)

    async def execute(self, queue: str, body: bytes = b"", raw_properties: bytes = b"\0\0") -> Settlement:
        """Execute one delivery, as a worker would."""
        handler = self.handler(queue)
        delivery = Delivery(body, raw_properties, b"\0\0", False, 1, Nowhere())
        try:
            return await self.pool.executing(handler, Report(handler))(delivery)
        finally:
            self.processes()

    async def tell(self, queue: str, body: bytes = b"") -> str:
        """Execute one delivery of a handler that tells something by way of a rejection's reason."""
        settlement = await self.execute(queue, body)
        return str(settlement)

    def processes(self) -> list[Process]:
        """Return the processes that are ready."""
        found = [process for pid in self.pool.pids if (process := Process.find(pid))]
        self.seen.update(found)
        return found


@asynccontextmanager
async def cpu(
    directory: Path,
    source: str,
    size: int = 2,
    publisher: Publisher | None = None,
    boot_timeout_s: float = 60.0,
    compression: Literal["none", "gzip"] = "none",
) -> AsyncIterator[Cpu]:
    """Lend the pool for the application `source`; at the end no process of it may be left, not even a zombie."""
    name = f"app_{uuid.uuid4().hex[:8]}"
    app = write_app(directory, source, name)
    brokers = Brokers.parse(["amqp://nowhere"])
    settings = Consumption(
        app=app,
        app_dir=str(directory),
        brokers=brokers,
        boot_timeout_s=boot_timeout_s,
        publisher=PublisherSettings(compression=compression),
    )
    handlers = load(app, str(directory))
    pool = CpuPool(
        MemberSettings.of(settings, WORKER, os.getpid(), ("info", "text")), size, random.Random(1), publisher
    )
    lent = Cpu(pool, handlers)
    try:
        yield lent
        lent.processes()
    finally:
        await pool.close(asyncio.get_running_loop().time())
    assert not any(is_there(process.pid) for process in lent.seen)


def is_there(pid: int | str) -> bool:
    """Whether there is a process with this pid, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def recorded(path: Path) -> list[str]:
    """Return the lines that handlers have appended to a file."""
    return path.read_text().split() if path.exists() else []
