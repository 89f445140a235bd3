"""When too many places of a handler are lost to handlers that do not stop, the process is to be replaced."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mxworker.board.lifecycle import Wish
from mxworker.errors import ExitCode
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.recycling import Recycling
from mxworker.worker.shutdown import Shutdown

log = logging.getLogger(__name__)


class LostPlaces:
    """Watches what is stuck."""

    def __init__(
        self, worker: int, runners: Sequence[HandlerRunner], recycling: Recycling, shutdown: Shutdown, is_burst: bool
    ) -> None:
        """`worker` is the number of the slot; `runners` may be filled later."""
        self.lost_to: HandlerRunner | None = None
        """The first of which too many places are lost; None while there is none."""
        self._worker = worker
        self._runners = runners
        self._recycling = recycling
        self._shutdown = shutdown
        self._is_burst = is_burst

    def look(self) -> None:
        """Have the process replaced when it is time. Call for each handler that is stuck."""
        lost = next((runner for runner in self._runners if runner.is_lost_to_stuck), None)
        if lost is None or self.lost_to is not None or self._shutdown.requested.is_set():
            return
        log.error(
            "worker %d is to be replaced: %d of %d places for handler %s are lost to handlers that are stuck",
            self._worker,
            lost.stuck,
            lost.handler.concurrency,
            lost.handler.name,
        )
        self.lost_to = lost
        if self._is_burst:  # nobody is replaced then; a worker that leaves with an error is started again
            self._shutdown.request(ExitCode.RUNTIME)
        else:
            self._recycling.wish(Wish.STUCK)
