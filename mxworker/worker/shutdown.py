"""The requests for a worker to leave: whether, how soon, and with which exit code if its drain goes well.

There are two requests: to drain, and to cut the drain short. A repeated request changes nothing. No request can be
withdrawn.
"""

from __future__ import annotations

import asyncio
import logging

from mxworker.errors import ExitCode
from mxworker.system.log_events import log_event

log = logging.getLogger(__name__)


class Shutdown:
    """The requests to leave. Belongs to one event loop."""

    def __init__(self, worker: int) -> None:
        """`worker` is the number of the slot."""
        self.requested = asyncio.Event()
        self.cut_short = asyncio.Event()
        """Set when the drain is not to wait for running handlers."""
        self.exit_code = ExitCode.OK
        """The exit code of the process when its drain goes well."""
        self._worker = worker

    def request(self, exit_code: ExitCode = ExitCode.OK) -> None:
        """Have the worker drain and leave. An exit code other than OK replaces the former one."""
        if exit_code is not ExitCode.OK:
            self.exit_code = exit_code
        self.requested.set()

    def cut(self) -> None:
        """Have the worker cancel running handlers at once, drain and leave."""
        self.request()
        self.cut_short.set()

    def break_down(self, error: BaseException | None) -> None:
        """Have the worker drain and leave because of a bug of ours. The master starts a new worker."""
        log.error(
            "worker %d is broken and ends",
            self._worker,
            exc_info=error,
            extra=log_event("worker_broken", worker=self._worker),
        )
        self.request(ExitCode.RUNTIME)

    def lose_lifespan(self) -> None:
        """Have the worker drain and leave because a lifespan wants to end. The master starts a new worker."""
        if self.requested.is_set():
            return
        log.warning(
            "worker %d drains and is replaced: a lifespan was cancelled, as by a task group or a timeout around its "
            "'yield'; the cause is logged after the drain",
            self._worker,
            extra=log_event("lifespan_cancelled", worker=self._worker),
        )
        self.request(ExitCode.RUNTIME)
