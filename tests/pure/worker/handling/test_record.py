"""What is on record of a batch when one of its deliveries cannot be put there."""

from __future__ import annotations

import asyncio

import pytest

from mxworker import Delivery, Handlers
from mxworker.api.handlers import compile_handlers
from mxworker.board.layout import Word
from mxworker.board.page import Board
from mxworker.worker.handling.record import Record
from mxworker.worker.handling.unsent import TURNS
from tests.harness.runners import Channel, deliveries


def test_delivery_that_cannot_be_put_on_record_takes_nothing_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    def order(payload: bytes) -> None: ...

    slot = Board(slots=1).slot(1)
    loop = asyncio.new_event_loop()
    record = Record(compile_handlers(handlers)[0], 0, slot, loop)
    enter = record.enter

    def enter_but_the_second(delivery: Delivery, started_at: float) -> int:
        if delivery.delivery_tag == 2:
            raise OverflowError("a fault of ours")
        return enter(delivery, started_at)

    monkeypatch.setattr(record, "enter", enter_but_the_second)
    with record.entered(deliveries(Channel(), 3)):
        assert slot.told.in_flight_count == 2
    for _ in range(TURNS):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert slot.told.in_flight_count == 0
    assert slot.words[Word.UNPLACED] == 0
