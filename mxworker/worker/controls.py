"""The worker's counts, and the pausing of queues, that a handler reaches through its context."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Callable, Sequence
from operator import sub

from mxworker.amqp.consuming.consumer import Consumer
from mxworker.api.context import WorkerStats
from mxworker.board.metrics import outcomes
from mxworker.board.metrics_layout import Outcome
from mxworker.board.slot import BoardSlot
from mxworker.worker.handling.handler_runner import HandlerRunner

_ASKED = "asked"
_NOT_FAILED = (Outcome.ACK, Outcome.STALE)


class Controls:
    """The `context.WorkerControls` of one process. Make it inside a running loop, before anything is handled."""

    def __init__(self, slot: BoardSlot, consumers: Sequence[Consumer], runners: Sequence[HandlerRunner]) -> None:
        """Start the counts at zero now. The sequences may be filled later."""
        self._area = slot.metrics
        self._counted_before = outcomes(self._area)
        self._consumers = consumers
        self._runners = runners
        self._loop = asyncio.get_running_loop()

    @property
    def stats(self) -> WorkerStats:
        """The counts of this process since its start, and what runs and waits in it now."""
        counts = list(map(sub, outcomes(self._area), self._counted_before))
        return WorkerStats(
            messages_processed=counts[Outcome.ACK],
            messages_failed=sum(counts) - sum(counts[outcome] for outcome in _NOT_FAILED),
            active_workers=sum(runner.running for runner in self._runners),
            queued_tasks=sum(runner.waiting for runner in self._runners),
        )

    def pause(self, queue: str) -> None:
        """Stop consuming a queue until `resume`. Raises KeyError when no handler here consumes it."""
        self._on_loop(self._consumer(queue).pause)

    def resume(self, queue: str) -> None:
        """Consume a queue again. Raises KeyError when no handler here consumes it."""
        self._on_loop(self._consumer(queue).resume)

    def _on_loop(self, turn: Callable[[str], None]) -> None:
        """Pause or resume a consumer: at once on the loop, and in its next turn for a handler in a thread."""
        if _get_running_loop() is self._loop:
            turn(_ASKED)
        else:
            self._loop.call_soon_threadsafe(turn, _ASKED)

    def _consumer(self, queue: str) -> Consumer:
        return {consumer.queue.name: consumer for consumer in self._consumers}[queue]
