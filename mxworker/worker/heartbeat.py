"""The heartbeat: once a second the worker's loop writes a deadline for the next one, and looks at the board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mxworker.board.check import latest_deadline_ns
from mxworker.board.metric_rows import MetricRows
from mxworker.board.metrics_layout import ProcessWord
from mxworker.board.slot import BoardSlot
from mxworker.config.process import Consumption
from mxworker.system.log import lines_dropped, tell_lost_lines
from mxworker.worker.recycling import Recycling

EVERY_S = 1.0
_NS_PER_S = 1_000_000_000


class Heartbeat:
    """Beats from the first `beat` on, on the event loop: a thread would still beat while the loop is blocked."""

    def __init__(
        self,
        settings: Consumption,
        slot: BoardSlot,
        recycling: Recycling,
        look_at_board: Callable[[], None],
        write_metrics: Callable[[], None],
    ) -> None:
        """Call `look_at_board` at each beat, since a signal can come before its handler is installed.

        `write_metrics` is called at each beat, too.
        """
        self._write_metrics = write_metrics
        self._timeout_ns = int(settings.heartbeat_timeout_s * _NS_PER_S)
        self._timeouts_s = (settings.heartbeat_timeout_s, settings.boot_timeout_s, settings.drain_timeout_s)
        self._slot = slot
        self._recycling = recycling
        self._look_at_board = look_at_board
        self._loop = asyncio.get_running_loop()
        self._metrics = MetricRows(slot.metrics).process
        self._lines_dropped = 0
        self._next: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Beat no more. Where the end of the process ends the loop, there is no need to call this."""
        if self._next is not None:
            self._next.cancel()

    def _tell_of_the_log(self) -> None:
        """Report dropped lines of the log when their reader is back, and count them in the metrics."""
        tell_lost_lines()
        dropped, before = lines_dropped(), self._lines_dropped
        if dropped != before:
            self._lines_dropped = dropped
            self._metrics[ProcessWord.LOG_LINES_DROPPED] += dropped - before

    def beat(self) -> None:
        """Write the deadline of the next heartbeat, and schedule it."""
        self._next = self._loop.call_later(EVERY_S, self.beat)  # first: a later error must not look like a hang
        self._slot.beat(time.monotonic_ns() + self._timeout_ns)
        self._recycling.beat()
        self._tell_of_the_log()
        self._look_at_board()
        if self._slot.look(latest_deadline_ns(time.monotonic_ns(), *self._timeouts_s)) is not None:
            self._slot.ring()  # the slot was overwritten: the master checks it, too, and replaces this process
        self._write_metrics()
