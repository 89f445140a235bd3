"""What a process that the application forks has of ours: nothing but the code.

A handler may fork: by `os.fork`, `pty.fork`, `multiprocessing`, or in a library. Such a child inherits signal handlers
that would drain the worker, the pipe into which they write, and the sockets of the broker, which would keep a dead
worker's messages from being delivered again. So hooks of `os.register_at_fork` see to it that in the child

* every signal of ours does what it does in any Python program; those that come in between wait until then;
* our descriptors lead to /dev/null, see `descriptors`;
* the kernel kills the child when our process ends, see `_die_with`;
* the title says whose child it is, and a crash is not told as the worker's.

The code of a child must end it, as `multiprocessing` does. One that comes back to the frames of ours under which it was
forked is ended there, see `end_fork`.

Subprocesses that are started by `exec` inherit none of this: all descriptors are closed by it, and signals reset.
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

log = logging.getLogger(__name__)

T = TypeVar("T")


class ThisProcess:
    """What a fork has made of this process; each handler that comes to an end asks, so it is no system call."""

    is_forked = False
    """Whether the application has forked it from a process that made a `Forks`."""


class Forks:
    """The hooks around every fork of this process, from now on. Make one, in the main thread, before any user code."""

    def __init__(self, owner: str) -> None:
        """`owner` says in the titles of children whose they are. All signal handlers there are now count as ours."""
        self._title = f"mxworker: child of {owner}"
        self._pid = os.getpid()
        self._handlers: dict[signal.Signals, Any] = {}
        self._masks = threading.local()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main_thread = threading.get_ident()
        self._death_fd, life_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # the second end is open while we live
        descriptors.claim(life_fd)
        self.claim_signals(signum for signum in signal.valid_signals() if callable(signal.getsignal(signum)))
        os.register_at_fork(
            before=self._block_signals, after_in_parent=self._unblock_signals, after_in_child=self._shed
        )

    def claim_signals(self, signums: Iterable[int]) -> None:
        """Take the present handlers of these signals for ours."""
        for signum in map(signal.Signals, signums):
            self._handlers[signum] = signal.getsignal(signum)

    def run(self, make_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, T]) -> T:
        """Run `main` on a new event loop of this thread, and keep the descriptors of the loop from children."""
        before = descriptors.open_now()
        self._loop = make_loop()
        asyncio.set_event_loop(self._loop)

        async def run_claimed() -> T:
            descriptors.claim(*descriptors.open_now() - before)  # here, since uvloop opens some when it begins to run
            return await main

        return self._loop.run_until_complete(run_claimed())

    # ---- around a fork, in the thread that forks

    def _block_signals(self) -> None:
        """Keep signals from a child that still has our handlers: they would tell us of them, by way of our pipe."""
        self._masks.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)

    def _unblock_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.mask)

    def _shed(self) -> None:
        """Live as a child. The thread that forked is the only one, and for the interpreter the main thread now."""
        ThisProcess.is_forked = True
        try:
            signal.set_wakeup_fd(-1)
            self._reset_signals()
            faulthandler.enable(file=2)
            descriptors.lead_to_nothing()
            _die_with(self._death_fd)
            setproctitle(self._title)
            self._leave_loop()
            # The interpreter's end waits for the threads of executors; the one that forked would wait for itself.
            vars(executors)["_threads_queues"].clear()
        finally:
            self._unblock_signals()

    def _reset_signals(self) -> None:
        for signum, handler in self._handlers.items():
            if signal.getsignal(signum) is handler:  # else the application has put its own there
                signal.signal(signum, signal.default_int_handler if signum is signal.SIGINT else signal.SIG_DFL)

    def _leave_loop(self) -> None:
        """Have no event loop, so that the child may run its own; to await anything of ours is an error there."""
        asyncio._set_running_loop(None)  # as Python does itself from 3.12 on
        asyncio.set_event_loop(None)
        if self._loop is not None and threading.get_ident() == self._main_thread:
            returned = RuntimeError("a forked process cannot await: the event loop is its parent's")
            self._loop.call_soon(end_fork, returned)


def end_fork(error: BaseException | None) -> NoReturn:
    """End a forked process at the place where its parent goes on; `error` is what its code has raised there.

    What the application registered with `atexit` is its parent's, and not run, as in a child of `multiprocessing`.
    """
    code: int = ExitCode.OK
    if isinstance(error, SystemExit):
        code = exit_code_of(error)
    elif error is not None:
        log.error("process %d, which a handler has forked, failed", os.getpid(), exc_info=error)
        code = ExitCode.RUNTIME
    try:
        flush()
    finally:
        os._exit(code)


def _die_with(pipe_fd: int) -> None:
    """Have the kernel kill this process when the last writer of the pipe is gone, and end it when it is already.

    A pipe that is opened anew sends its owner a signal then, and F_SETSIG says which (fcntl(2)); it does so after an
    exec too. PR_SET_PDEATHSIG would kill a child whose parent goes on, and only the *thread* that forked it ends, and
    a daemon whose own parent leaves. A process that closes all descriptors, as daemons do, does not die with us.
    """
    with suppress(OSError):
        fd = os.open(f"/proc/self/fd/{pipe_fd}", os.O_RDONLY | os.O_NONBLOCK)
        os.set_inheritable(fd, True)
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        look = select.poll()
        look.register(fd, select.POLLIN)
        if look.poll(0):  # the end of the last writer came before the lines above
            os._exit(ExitCode.RUNTIME)
