"""One process of the pool for `cpu=True` handlers, as its worker sees it: started, asked, killed, reaped.

It is a clean subprocess, not a fork of the worker: nothing of a worker with connections and threads is inherited. That
it ended is told by a pidfd (pidfd_open(2), Linux 5.3), so that a process which its handler left behind, with our socket
open, does not hide its death.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

from mxworker.system import interpreter
from mxworker.worker.cpu.member import DEAF_TO
from mxworker.worker.cpu.pipe import Pipe
from mxworker.worker.cpu.protocol import MemberSettings

# The import path is the worker's, which has been told where the application is. With `-m`, and without -P, the current
# directory would come first on it, and a file there would take the place of a module of Python's own.
_BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from mxworker.worker.cpu.member import main
main()
"""


class CpuProcess:
    """A process that executes one delivery at a time. Belongs to one event loop."""

    def __init__(self, settings: MemberSettings) -> None:
        """Start it; returns when it has begun, long before it is ready. Raises OSError.

        You must call this in the main thread: it dies with the thread that started it.
        """
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Resolved with its exit code, or minus the signal that killed it, when it is reaped."""
        ours, theirs = socket.socketpair()
        with ExitStack() as undoing:
            self.pipe = Pipe(ours, settings.max_publish_bytes)
            undoing.callback(ours.close)
            with theirs:
                self._popen = _start(settings, theirs)
            undoing.callback(self._popen.wait)
            undoing.callback(self._popen.kill)
            self._pidfd = os.pidfd_open(self.pid)
            undoing.pop_all()
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, asked of the kernel now."""
        return self._popen.poll() is None

    async def kill(self) -> int:
        """Kill it at once, wait until it has ended, and return how; one that has ended already stays as it ended.

        Nobody may use the pipe any more.
        """
        self._popen.kill()
        try:
            return await asyncio.shield(self.ended)
        finally:
            self.pipe.close()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._popen.wait()
        self.pipe.end_receiving()
        self.ended.set_result(code)


def in_words(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"its process exited with code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"its process died with signal {-code}{name}"


def _start(settings: MemberSettings, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the command with one end of a socket pair. Signals to the whole group wait until it is deaf to them."""
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])  # others mean nothing to an import
    command = [
        sys.executable,
        *interpreter.options(),
        "-P",
        "-c",
        _BOOT,
        str(theirs.fileno()),
        settings.to_json(),
        path,
    ]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF_TO)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))  # noqa: S603
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
