"""Keep signal handlers, pipes and sockets of ours out of the processes that the application forks.

A handler may fork: by `os.fork`, `pty.fork`, `multiprocessing`, or in a library. The child inherits signal handlers
that would drain the worker, the pipe into which they write, and the sockets to the broker, which would keep the
messages of a dead worker from being delivered again. So hooks of `os.register_at_fork` change the child:

* every signal that we handle has its usual effect in a Python program; signals that arrive earlier are blocked until
  then;
* our descriptors lead to /dev/null, see `descriptors`;
* the kernel kills the child when our process ends, see `_die_with`;
* the title says whose child it is, and a crash of the child is not reported as one of the worker.

The code of a child must end it, as `multiprocessing` does. A child that returns to our frames, under which it was
forked, is ended there, see `end_fork`.

Subprocesses that are started by `exec` inherit nothing of this: exec closes our descriptors and resets signal handlers.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import thread as executors
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from setproctitle import setproctitle

from mxworker.errors import ExitCode
from mxworker.system import descriptors
from mxworker.system.child import exit_code_of, flush
from mxworker.system.log_events import log_event
from mxworker.system.task_exits import run_to_end

log = logging.getLogger(__name__)

T = TypeVar("T")


class ThisProcess:
    """Tells whether this process is a fork. A flag and no system call, because the end of every handler checks it."""

    is_forked = False
    """Whether the application forked this process from a process that had made a `Forks`."""


class Forks:
    """The hooks around every later fork of this process. Make one, in the main thread, before any user code runs."""

    def __init__(self, owner: str) -> None:
        """Install the hooks. Titles of children name `owner`. All present signal handlers count as ours."""
        self._title = f"mxworker: child of {owner}"
        self._pid = os.getpid()
        self._handlers: dict[signal.Signals, Any] = {}
        self._masks = threading.local()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main_thread = threading.get_ident()
        self._death_fd, life_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # the write end stays open while we live
        descriptors.claim(life_fd)
        self.claim_signals(signum for signum in signal.valid_signals() if callable(signal.getsignal(signum)))
        os.register_at_fork(
            before=self._block_signals, after_in_parent=self._unblock_signals, after_in_child=self._shed
        )

    def claim_signals(self, signums: Iterable[int]) -> None:
        """Count the present handlers of these signals as ours."""
        for signum in map(signal.Signals, signums):
            self._handlers[signum] = signal.getsignal(signum)

    def run(self, make_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, T]) -> T:
        """Run `main` on a new event loop of this thread, and keep the descriptors of the loop from children.

        SystemExit and KeyboardInterrupt in another task than `main` do not end the loop, see `task_exits`.
        """
        before = descriptors.open_now()
        self._loop = make_loop()
        asyncio.set_event_loop(self._loop)

        async def run_claimed() -> T:
            descriptors.claim(*descriptors.open_now() - before)  # here, since uvloop opens some when it starts to run
            return await main

        # uvloop closes its pipe when it stops. The next one needs no claim: children have no wakeup descriptor.
        running = self._loop.create_task(run_claimed())
        return run_to_end(self._loop, running, lambda: ThisProcess.is_forked, descriptors.release_closed)

    # ---- around a fork, in the thread that forks

    def _block_signals(self) -> None:
        """Block signals while the child still has our handlers, which would write to our pipe."""
        self._masks.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)

    def _unblock_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.mask)

    def _shed(self) -> None:
        """Change the child. Its only thread is the one that forked, now the main thread for the interpreter."""
        ThisProcess.is_forked = True
        try:
            signal.set_wakeup_fd(-1)
            self._reset_signals()
            faulthandler.enable(file=2)
            descriptors.lead_to_nothing()
            _die_with(self._death_fd)
            setproctitle(self._title)
            self._leave_loop()
            # The exit of the interpreter joins executor threads. The one that forked would join itself.
            vars(executors)["_threads_queues"].clear()
        finally:
            self._unblock_signals()

    def _reset_signals(self) -> None:
        for signum, handler in self._handlers.items():
            if signal.getsignal(signum) is handler:  # else the application has installed its own
                signal.signal(signum, signal.default_int_handler if signum is signal.SIGINT else signal.SIG_DFL)

    def _leave_loop(self) -> None:
        """Leave the event loop, so that the child can run its own. Awaiting anything of ours is an error there."""
        asyncio._set_running_loop(None)  # as Python does itself from 3.12 on
        asyncio.set_event_loop(None)
        if self._loop is not None and threading.get_ident() == self._main_thread:
            returned = RuntimeError("a forked process cannot await: the event loop is its parent's")
            self._loop.call_soon(end_fork, returned)


def end_fork(error: BaseException | None) -> NoReturn:
    """End a forked process where its code has returned to ours; `error` is the exception that this code raised.

    Callbacks of `atexit` belong to the parent and are not run, as in a child of `multiprocessing`.
    """
    code: int = ExitCode.OK
    if isinstance(error, SystemExit):
        code = exit_code_of(error)
    elif error is not None:
        facts = log_event("forked_process_failed")
        log.error("process %d, which a handler forked, failed", os.getpid(), exc_info=error, extra=facts)
        code = ExitCode.RUNTIME
    try:
        flush()
    finally:
        os._exit(code)


def _die_with(pipe_fd: int) -> None:
    """Have the kernel kill this process when the last writer of the pipe has gone; exit now if it has gone already.

    A reopened pipe can send its owner a signal then, after an exec too, and F_SETSIG chooses the signal (fcntl(2)).
    PR_SET_PDEATHSIG is no alternative: it would kill a child when only the *thread* that forked it ends, and a daemon
    when its own parent exits. A process that closes all its descriptors, as daemons do, does not die with us.
    """
    with suppress(OSError):
        fd = os.open(f"/proc/self/fd/{pipe_fd}", os.O_RDONLY | os.O_NONBLOCK)
        os.set_inheritable(fd, True)
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        look = select.poll()
        look.register(fd, select.POLLIN)
        if look.poll(0):  # the last writer went before F_SETSIG was set
            os._exit(ExitCode.RUNTIME)
