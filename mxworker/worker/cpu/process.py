"""One process of the pool for `cpu=True` handlers, from the worker's side: it is started, asked, killed and reaped.

The process is a clean subprocess, not a fork of the worker: it inherits no connections and threads of the worker. A
pidfd (pidfd_open(2), Linux 5.3) reports its end, since a subprocess that its handler left running may hold our socket
open.
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
from mxworker.system.exit_status import in_words
from mxworker.worker.cpu.member import DEAF_TO
from mxworker.worker.cpu.pipe import Pipe
from mxworker.worker.cpu.protocol import MemberSettings
from mxworker.worker.profiling.remote import RemoteProfile

# The import path is the worker's, which has the directory of the application. With `-m`, and without -P, the current
# directory would come first on it, and a file there could hide a module of Python's own.
_BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from mxworker.worker.cpu.member import main
main()
"""


class CpuProcess:
    """A process that executes one delivery at a time. Belongs to one event loop."""

    def __init__(self, settings: MemberSettings) -> None:
        """Start the process, and return long before it is ready. Raises OSError.

        You must call this in the main thread: the process dies with the thread that started it.
        """
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """The exit code, or minus the signal that killed the process; set when the process is reaped."""
        with ExitStack() as undoing:
            ours, theirs = socket.socketpair()
            undoing.callback(ours.close)
            profiler, profiled = socket.socketpair()
            undoing.callback(profiler.close)
            self.pipe = Pipe(ours, settings.publisher.max_body_bytes)
            with theirs, profiled:
                self._popen = _start(settings, theirs, profiled)
            self.profile = RemoteProfile(profiler, lambda: self._popen.send_signal(signal.SIGURG))
            undoing.callback(self._popen.wait)
            undoing.callback(self._popen.kill)
            self._pidfd = os.pidfd_open(self.pid)
            undoing.pop_all()
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs, by the kernel's answer now."""
        return self._popen.poll() is None

    async def kill(self) -> int:
        """Kill the process, wait for its end, and return its exit code, see `ended`.

        A process that has ended already keeps its exit code. The pipe is closed: do not use it any more.
        """
        self._popen.kill()
        try:
            return await asyncio.shield(self.ended)
        finally:
            self.pipe.close()

    def _reap(self) -> None:
        self.profile.close()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._popen.wait()
        self.pipe.end_receiving()
        self.ended.set_result(code)


def end_of(status: int) -> str:
    """Return how a process ended, as the reason of what was lost with it."""
    return f"its process ended with {in_words(status)}"


def _start(settings: MemberSettings, *ends: socket.socket) -> subprocess.Popen[bytes]:
    """Start the command with the ends of socket pairs. Signals to the process group wait until it ignores them."""
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])  # imports ignore other entries
    command = [
        sys.executable,
        *interpreter.options(),
        "-P",
        "-c",
        _BOOT,
        *(str(end.fileno()) for end in ends),
        settings.to_json(),
        path,
    ]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF_TO)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[end.fileno() for end in ends])  # noqa: S603
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
