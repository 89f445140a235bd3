"""The first and last steps of every child process of ours: it dies with its parent, dumps no core, loses no output.

The children are workers, which the master forks, and processes of `cpu=True` handlers, which a worker starts. This
module holds no state.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import resource
import signal
import sys
from types import FrameType

from mxworker.errors import ExitCode
from mxworker.system.log_events import log_event

log = logging.getLogger("mxworker.worker")

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork, since a child must not take the linker's lock


def bind_to_parent(parent_pid: int, stacks_fd: int = 2) -> None:
    """Have the kernel kill this process when its parent dies; exit now if the parent has died already.

    The kernel acts when the parent's *thread* ends, so a child must be made in the main thread (prctl(2)). This also
    turns core dumps off, and makes a crash write the stacks of all threads to `stacks_fd`, by default stderr.
    Raises OSError.
    """
    if _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # the parent died before prctl, so the kernel will not signal its death any more
        os._exit(ExitCode.RUNTIME)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(file=stacks_fd)


def ring() -> None:
    """Wake the parent up to look at the board, because something that it waits for has changed there.

    The signal is SIGCHLD. After the parent's death it reaches the process that adopted this one, which ignores it.
    """
    os.kill(os.getppid(), signal.SIGCHLD)


def do_nothing(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing. Unlike SIG_IGN, subprocesses do not inherit this: exec resets it."""


def flush() -> None:
    """Flush the output that `os._exit` would drop. Never fails because a reader has gone."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def exit_code_of(request: SystemExit) -> int:
    """Return the exit code that the interpreter would use. A text, which it would print, is logged."""
    match request.code:
        case None:
            return ExitCode.OK
        case int(code):
            return code & 0xFF
        case text:
            log.error("%s", text, extra=log_event("exit_text"))
            return ExitCode.RUNTIME
