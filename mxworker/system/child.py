"""What every child process of ours does first and last: die with its parent, leave no core, lose no output.

For workers, which the master forks, and for the processes of `cpu=True` handlers, which a worker starts. A word for
both, because neither of the two folders may import the other; it holds no state.
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

log = logging.getLogger("mxworker.worker")

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child must not need the dynamic linker's lock


def bind_to_parent(parent_pid: int, stacks_fd: int = 2) -> None:
    """Have the kernel kill this process when its parent dies, and end it now when that has happened already.

    It is the parent's *thread* whose end counts, so a child must be made in the main thread (prctl(2)). Core dumps are
    off from now on, and a crash writes the stacks of all threads to `stacks_fd`, stderr by default. Raises OSError.
    """
    if _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it died before the line above, so its death will not be signalled any more
        os._exit(ExitCode.RUNTIME)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(file=stacks_fd)


def ring() -> None:
    """Have the parent look at the board soon: something there has changed that it waits for.

    It is SIGCHLD that is sent, which says that something is new with a child. After the parent's death it reaches
    whoever adopted this process, and is ignored.
    """
    os.kill(os.getppid(), signal.SIGCHLD)


def do_nothing(signum: int, frame: FrameType | None) -> None:
    """Exist. A Python function instead of SIG_IGN: exec resets it, so subprocesses do not inherit deafness."""


def flush() -> None:
    """Flush what `os._exit` would drop; a reader that went away is no reason to fail."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def exit_code_of(request: SystemExit) -> int:
    """Return what the interpreter would exit with; a text, which it would print, is logged."""
    match request.code:
        case None:
            return ExitCode.OK
        case int(code):
            return code & 0xFF
        case text:
            log.error("%s", text)
            return ExitCode.RUNTIME
