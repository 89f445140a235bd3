"""Whether a worker is to leave, how soon, and with which exit code if its drain goes well.

There are two requests: to drain, and to cut the drain short. Each may be made again, which changes nothing. Neither is
taken back.
"""

from __future__ import annotations

import asyncio
import logging

from mxworker.errors import ExitCode

log = logging.getLogger(__name__)


class Shutdown:
    """The requests to leave. Belongs to one event loop."""

    def __init__(self, worker: int) -> None:
        """`worker` is the number of the slot."""
        self.requested = asyncio.Event()
        self.cut_short = asyncio.Event()
        """Set when handlers that run are not waited for."""
        self.exit_code = ExitCode.OK
        """With what the process ends when its drain goes well."""
        self._worker = worker

    def request(self, exit_code: ExitCode = ExitCode.OK) -> None:
        """Have the worker drain and leave. An exit code that is not OK replaces the one that there was."""
        if exit_code is not ExitCode.OK:
            self.exit_code = exit_code
        self.requested.set()

    def cut(self) -> None:
        """Have the worker drain and leave, but cancel what runs at once."""
        self.request()
        self.cut_short.set()

    def break_down(self, error: BaseException | None) -> None:
        """Have the worker drain and leave, for it has a bug of ours: the master starts a new one."""
        log.error("worker %d is broken and ends", self._worker, exc_info=error)
        self.request(ExitCode.RUNTIME)
