"""How a command that sends messages is stopped by a signal: it finishes what is on its way."""

from __future__ import annotations

import signal
import sys

from mxworker.errors import ExitCode


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a reason to stop, so that what is on its way is finished. Call `watch`."""

    def __init__(self) -> None:
        self.why: str | None = None

    def watch(self) -> None:
        """Begin to watch, in the running event loop. A second signal ends the process at once."""
        import asyncio  # loaded already, and not with the command line

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        if self.why is not None:
            sys.stdout.flush()
            sys.exit(ExitCode.FORCED)
        self.why = "interrupted"

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code of an interrupted command, None when it was not interrupted."""
        return None if self.why is None else ExitCode.FORCED
