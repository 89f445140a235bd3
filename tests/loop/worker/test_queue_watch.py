"""How often the queues are looked at."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from mxworker.amqp.consuming.depths import Depths
from mxworker.api.handlers import Handlers, compile_handlers
from mxworker.board.metric_rows import MetricRows
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.worker import queue_watch
from mxworker.worker.queue_watch import QueueWatch

REQUESTS_A_QUEUE = 6


class Reader:
    """A broker that answers at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.expected: list[str] = []

    async def read(self, *_: object) -> Depths:
        self.asked += REQUESTS_A_QUEUE
        return Depths(1, 2, 3, 4, 5)

    def expect(self, names: list[str]) -> None:
        self.expected = names


def watch_of(board: Board, queues: int) -> QueueWatch:
    handlers = Handlers()
    for number in range(queues):

        @handlers.consume(f"q{number:02}")
        async def handle(body: bytes) -> None: ...

    return QueueWatch(board.slot(1), cast("Any", None), compile_handlers(handlers), [])


async def test_look_at_many_queues_is_spread_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_watch, "MOST_ASKED_PER_S", 200)
    board, reader, loop = Board(1), Reader(), asyncio.get_running_loop()
    began = loop.time()
    await watch_of(board, 20)._look(cast("Any", reader))
    assert loop.time() - began >= 20 * REQUESTS_A_QUEUE / 200
    board.checked(1).prepare(1, False, 1)
    found = fold(board).queues
    assert [each.queue for each in found] == [f"q{number:02}" for number in range(20)]
    assert (found[0].ready, found[0].consumers, found[0].retry_waiting) == (1, 2, 3)
    assert (found[0].dead_letters, found[0].quarantined) == (4, 5)


async def test_quarantine_is_looked_for_when_a_worker_has_used_it() -> None:
    board, reader = Board(2), Reader()
    for number in (1, 2):
        board.checked(number).prepare(1, False, 1)
    watch = watch_of(board, 1)
    await watch._look(cast("Any", reader))
    assert reader.expected == []
    MetricRows(board.slot(2).metrics).consumer("q00", "handle").words[Outcome.QUARANTINE] += 1
    await watch._look(cast("Any", reader))
    assert reader.expected == ["q00.quarantine"]
