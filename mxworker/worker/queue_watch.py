"""Writing to the board what the broker says of the queues, from one worker of the service at a time.

A look at all queues is taken every five seconds, and takes at most 50 requests a second: a service with hundreds of
queues looks at each of them less often. Each fact has the time of its look, so readers can tell that it is old when no
worker can look. A worker that begins to look begins anew with the queues that were missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.depths import DepthReader
from mxworker.api.compilation import Handler
from mxworker.api.queues import Queue
from mxworker.board.metric_rows import ConsumerRow, MetricRows
from mxworker.board.metrics import outcomes
from mxworker.board.metrics_layout import Outcome
from mxworker.board.slot import BoardSlot
from mxworker.board.turn import has_turn
from mxworker.errors import BrokerError

LOOK_EVERY_S = 5.0
MOST_ASKED_PER_S = 50
_TURN_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Watched:
    """A queue, and where its facts are written."""

    queue: Queue
    retry_steps_ms: tuple[int, ...]
    row: ConsumerRow


class QueueWatch:
    """Looks at the queues of all handlers, while `run` runs and it is this worker's turn."""

    def __init__(self, slot: BoardSlot, link: Link, handlers: Sequence[Handler], consumers: Sequence[Consumer]) -> None:
        """`consumers` may be filled until `run` starts."""
        self._slot = slot
        self._link = link
        self._watched = _watched(handlers, MetricRows(slot.metrics))
        self._consumers = consumers
        self._quarantined = 0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        reader, loop = DepthReader(self._link), asyncio.get_running_loop()
        while True:
            if has_turn(self._slot, self._slot.used, time.monotonic_ns()):
                next_look = loop.time() + LOOK_EVERY_S
                with suppress(BrokerError):  # the link reports the loss of the connection
                    await self._look(reader)
                await asyncio.sleep(next_look - loop.time())
            else:
                await reader.close()
                await asyncio.sleep(_TURN_EVERY_S)

    async def _look(self, reader: DepthReader) -> None:
        """Look at all queues once. Raises BrokerError."""
        loop = asyncio.get_running_loop()
        began, asked_before = loop.time(), reader.asked
        self._expect_quarantine(reader)
        consumed = {consumer.queue.name for consumer in self._consumers if consumer.is_consuming}
        for watched in self._watched:
            looked_at = time.time()
            found = await reader.read(watched.queue, watched.retry_steps_ms, watched.queue.name in consumed)
            watched.row.write_queue_facts(
                found.ready, found.consumers, found.retry_waiting, found.dead_letters, found.quarantined, looked_at
            )
            await asyncio.sleep(began + (reader.asked - asked_before) / MOST_ASKED_PER_S - loop.time())

    def _expect_quarantine(self, reader: DepthReader) -> None:
        """Have the quarantine queues looked for, when any worker has put a message into one since the last look."""
        quarantined = sum(outcomes(each.metrics)[Outcome.QUARANTINE] for each in self._slot.used)
        if quarantined != self._quarantined:
            self._quarantined = quarantined
            reader.expect([watched.queue.quarantine_name for watched in self._watched])


def _watched(handlers: Sequence[Handler], rows: MetricRows) -> list[_Watched]:
    """Return each queue once, with the retry queues of all its handlers; only those that have a row of their own."""
    queues = {handler.queue.name: handler for handler in reversed(handlers)}
    steps = {
        name: sorted({step for handler in handlers if handler.queue.name == name for step in handler.retry_steps_ms})
        for name in queues
    }
    watched = [
        _Watched(handler.queue, tuple(steps[name]), rows.consumer(name, handler.name))
        for name, handler in queues.items()
    ]
    return [each for each in watched if each.row.is_own]
