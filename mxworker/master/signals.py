"""Signals as numbers in a pipe, so that the master's loop reads them between two steps and never inside one.

What a signal means is decided in `commands`. Invariants: the Python-level handlers do nothing (CPython writes the
signal's number to the wakeup pipe in its C handler). They are installed before the first fork, and the default action
never comes back, so that a late signal cannot change an exit code that is already decided.
"""

from __future__ import annotations

import os
import signal

from mxworker.system.child import do_nothing

TAKEN = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)

_READ_BYTES = 4096  # a pipe holds 65536 bytes; the next poll returns at once for the rest


class SignalInbox:
    """The wakeup pipe. `fd` becomes readable when a taken signal arrived.

    It holds descriptors by number, not as file objects: a forked child closes them by number, and an inherited object
    would close them a second time, when the numbers belong to something else.
    """

    def __init__(self) -> None:
        """Take the signals of `TAKEN`; works in the main thread only."""
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for signum in TAKEN:
            signal.signal(signum, do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)  # a launcher may have left them blocked

    def read(self) -> list[signal.Signals]:
        """Return the signals that came since the last call, in order; equal ones may have merged."""
        try:
            return [signal.Signals(number) for number in os.read(self.fd, _READ_BYTES) if number in TAKEN]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Ignore all signals for the rest of the process: SIG_IGN holds through the interpreter's shutdown too."""
        for signum in TAKEN - {signal.SIGCHLD}:
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._write_fd)
