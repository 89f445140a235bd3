"""The process is replaced when too many of a handler's places are lost to deliveries whose handler does not stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mxworker.board.lifecycle import Wish
from mxworker.errors import ExitCode
from mxworker.system.log_events import log_event
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.recycling import Recycling
from mxworker.worker.shutdown import Shutdown

log = logging.getLogger(__name__)


class LostPlaces:
    """Counts the places of handlers that are stuck."""

    def __init__(
        self, worker: int, runners: Sequence[HandlerRunner], recycling: Recycling, shutdown: Shutdown, is_burst: bool
    ) -> None:
        """`worker` is the number of the slot; `runners` may be filled later."""
        self.lost_to: HandlerRunner | None = None
        """The first handler that has lost too many places; None while there is none."""
        self._worker = worker
        self._runners = runners
        self._recycling = recycling
        self._shutdown = shutdown
        self._is_burst = is_burst

    def look(self) -> None:
        """Have the process replaced if a handler has lost too many places. Call whenever a handler gets stuck."""
        lost = next((runner for runner in self._runners if runner.is_lost_to_stuck), None)
        if lost is None or self.lost_to is not None or self._shutdown.requested.is_set():
            return
        log.error(
            "worker %d is to be replaced: %d of %d places of handler %s are stuck, and run nothing any more",
            self._worker,
            lost.stuck,
            lost.handler.concurrency,
            lost.handler.name,
            extra=log_event("handler_places_lost", worker=self._worker, handler=lost.handler.name, stuck=lost.stuck),
        )
        self.lost_to = lost
        if self._is_burst:  # a burst replaces no worker, but a worker that exits with an error is started again
            self._shutdown.request(ExitCode.RUNTIME)
        else:
            self._recycling.wish(Wish.STUCK)
