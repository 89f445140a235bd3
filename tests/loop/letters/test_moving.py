"""Letters that are copied are acked before others are copied, so an interruption leaves few of them in two places."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.receipts import Receipt
from mxworker.letters.letter import Original
from mxworker.letters.moving import AT_ONCE, Move, Way
from tests.loop.loops import on_both_loops
from tests.rabbit.raw import raw_properties

LETTERS = 10 * AT_ONCE


class Places:
    """Stands in for a publisher that confirms, and for the queue that a letter leaves when its ack is written."""

    def __init__(self, confirmed_at_once: int) -> None:
        self.copied = self.acked = 0
        self.most_in_both = 0
        self._confirmed_at_once = confirmed_at_once
        self._waiting: list[Receipt] = []

    def publish_nowait(self, copy: object, **more: Any) -> Receipt:
        self.copied += 1
        self.most_in_both = max(self.most_in_both, self.copied - self.acked)
        self._waiting.append(Receipt(str(self.copied)))
        if len(self._waiting) == self._confirmed_at_once or self.copied == LETTERS:
            asyncio.get_running_loop().call_soon(self._confirm)
        return self._waiting[-1]

    def _confirm(self) -> None:
        confirmed, self._waiting = self._waiting, []
        for receipt in confirmed:
            receipt.end(None)

    def settle(self) -> bool:
        asyncio.get_running_loop().call_soon(self._write_ack)
        return True

    def _write_ack(self) -> None:
        self.acked += 1


@pytest.mark.parametrize("confirmed_at_once", [1, AT_ONCE // 2, AT_ONCE])
@on_both_loops
async def test_no_more_letters_are_in_both_places_than_may_be_open(confirmed_at_once: int) -> None:
    places = Places(confirmed_at_once)
    settle: Callable[[], bool] = places.settle
    letter = Original(b"{}", raw_properties(message_id=b"the-id"), b"")
    move = Move(cast("Publisher", places), Way("orders"))
    moves = await move.run((letter, settle) for _ in range(LETTERS))
    assert (moves.moved, moves.stopped) == (LETTERS, None)
    assert 0 < places.most_in_both <= AT_ONCE
