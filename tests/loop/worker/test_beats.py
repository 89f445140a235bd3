"""A worker that is well beats, whatever else goes wrong in a beat: one that does not is aborted as hung."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from mxworker import Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.board.directives import DIRECTIVES_BYTES, Directives
from mxworker.board.layout import Word
from mxworker.board.metric_rows import MetricRows
from mxworker.board.metrics_layout import ProcessWord
from mxworker.board.page import Board
from mxworker.board.slot import BoardSlot
from mxworker.brokers import Brokers
from mxworker.config.process import Consumption
from mxworker.errors import ExitCode
from mxworker.system.log import LineHandler
from mxworker.system.log_formats import JsonFormatter
from mxworker.worker import heartbeat
from mxworker.worker.assembly import assemble
from tests.harness.waiting import until

SOON_S = 60.0


class Unreadable(Directives):
    """Directives that cannot be read at times."""

    is_broken = False
    times_read = 0

    @property
    def log_level(self) -> int | None:
        self.times_read += 1
        if self.is_broken:
            raise LookupError("made-up fault")
        return None


@pytest.fixture
def directives() -> Unreadable:
    return Unreadable(memoryview(bytearray(DIRECTIVES_BYTES)))


@asynccontextmanager
async def starting(directives: Directives) -> AsyncIterator[BoardSlot]:
    """Run a worker that beats, and gets no further than its lifespan."""
    handlers = Handlers()

    @handlers.lifespan
    async def endless() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    @handlers.consume("queue")
    async def never(body: bytes) -> None: ...

    slot = Board(1).slot(1)
    settings = Consumption(app="test", brokers=Brokers.parse(["amqp://127.0.0.1:1/"]))
    service = assemble(
        settings, compile_handlers(handlers), slot, lambda: True, lambda state: None, directives=directives
    )
    task = asyncio.create_task(service.run())
    try:
        await until(lambda: slot.words[Word.RSS_BYTES], SOON_S, "the first beat")
        yield slot
    finally:
        service.request_stop()
        assert await asyncio.wait_for(task, SOON_S) is ExitCode.OK


async def beats(slot: BoardSlot, times: int = 3) -> None:
    for _ in range(times):
        promised_ns = slot.deadline_ns
        await until(lambda: slot.deadline_ns > promised_ns, SOON_S, "another beat")  # noqa: B023  used at once


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # what is open stays so
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/dev/null", os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)


async def test_worker_without_a_descriptor_left_beats_and_obeys_and_shows_the_memory_it_had(
    directives: Unreadable,
) -> None:
    async with starting(directives) as slot:
        with no_descriptor_left():
            read_before = directives.times_read
            await beats(slot)
            assert slot.words[Word.RSS_BYTES] > 0
            assert directives.times_read > read_before
        await beats(slot)


async def test_worker_that_fails_to_look_at_the_board_beats_on(directives: Unreadable) -> None:
    async with starting(directives) as slot:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        directives.is_broken = True
        await beats(slot)
        directives.is_broken = False
        read_before = directives.times_read
        await until(lambda: directives.times_read > read_before, SOON_S, "it to look again")


async def test_beat_reports_dropped_lines_of_the_log_and_counts_them(
    directives: Unreadable, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    handler = LineHandler(writer)
    handler.setFormatter(JsonFormatter())
    monkeypatch.setattr(logging, "lastResort", handler)
    lines = 0
    while not handler.dropped_lines:  # until the pipe is full
        handler.handle(logging.makeLogRecord({"msg": "x" * 3000}))
        lines += 1
    async with starting(directives) as slot:
        counts = MetricRows(slot.metrics).process
        await until(lambda: counts[ProcessWord.LOG_LINES_DROPPED] == 1, SOON_S, "the count")
        read = bytearray()

        def is_told() -> bool:
            with suppress(BlockingIOError):
                read.extend(os.read(reader, 1 << 20))
            return b"log_lines_lost" in read

        await until(is_told, SOON_S, "the report")
    assert read.count(b"\n") == lines
    os.close(reader)
    os.close(writer)
