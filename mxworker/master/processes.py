"""Child processes: the only place that forks, reaps and signals.

This module knows neither the states of slots nor why something is done. Invariants:

* The master has one thread at every fork, and all signals are blocked around it: a signal to a child that still had
  the master's handlers would be written into the master's wakeup pipe.
* A child never returns into the master's stack: it ends in `os._exit`.
* A child dies with its master.
* Signals go only to own children that were not reaped yet, so never to a stranger that got the same pid.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mxworker.errors import ExitCode, InvariantError
from mxworker.master.companion import Companion
from mxworker.master.signals import TAKEN
from mxworker.master.slot import Order
from mxworker.master.slot_files import SlotFiles
from mxworker.system.at_exit import forget_inherited
from mxworker.system.child import bind_to_parent, do_nothing, exit_code_of, flush
from mxworker.system.descriptors import claim
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.master")
_WORKER_LOG = logging.getLogger("mxworker.worker")

_STOP_A_GROUP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
_STANDARD_FDS = frozenset({0, 1, 2})
_REAP_LOOK_S = 0.02
_KIBIBYTE = 1024
# faulthandler writes at most 100 threads of 100 frames, and the thread at fault is often the last.
_STACKS_BYTES = 1024 * 1024

# A terminal or a service manager may send some of these to the whole process group, and the master alone decides what
# they mean. Others are the master's orders, of which a worker that still boots must not die; SIGTERM may end it then.
_NOT_FATAL = frozenset(
    {
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTTIN,
        signal.SIGTTOU,
        Order.CUT_SHORT.value,
    }
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A child of ours that ended: `status` is an exit code or minus a signal number.

    `peak_rss_bytes` is the most memory that it, or a process it waited for, ever had (getrusage(2)).
    """

    pid: int
    status: int
    peak_rss_bytes: int

    @property
    def has_crashed(self) -> bool:
        """Whether it was ended by a signal that nobody sends to a whole process group in order to stop it."""
        return self.status < 0 and -self.status not in _STOP_A_GROUP


class Children:
    """The processes that this master forked and has not reaped."""

    def __init__(self, run_worker: Callable[[int], int], companion: Companion | None = None) -> None:
        """Remember `run_worker(slot)`, which runs in each child and returns its exit code."""
        self._run_worker = run_worker
        self._companion = companion
        self._pids: set[int] = set()  # of the workers
        self._observer: int | None = None
        self._stack_files = SlotFiles("stacks")
        self.profile_files = SlotFiles("profile")

    def spawn(self, slot: int) -> int:
        """Fork the worker of `slot` and return its pid. Raises OSError when the machine cannot fork now."""
        stacks_fd, profile_fd = self._stack_files.empty(slot), self.profile_files.empty(slot)
        pid = _fork(_Life(slot, lambda: self._run_worker(slot), stacks_fd, frozenset({profile_fd})))
        self._pids.add(pid)
        return pid

    def spawn_observer(self, run: Callable[[], int], fds: Set[int]) -> int:
        """Fork the observer, which inherits the descriptors `fds`, and return its pid. Raises OSError as `spawn`."""
        self._observer = _fork(_Life(0, run, kept=fds))
        return self._observer

    def reap(self) -> list[Ended]:
        """Return the children of ours that ended."""
        ended = []
        while True:
            try:
                pid, wait_status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            status = os.waitstatus_to_exitcode(wait_status)
            if pid in self._pids or pid == self._observer:
                self._forget(pid)
                ended.append(Ended(pid, status, usage.ru_maxrss * _KIBIBYTE))
            elif self._companion is None or not self._companion.take_end(pid, status):
                _LOG.debug("reaped process %d, which is not ours", pid)  # as PID 1 we inherit orphans
        return ended

    def _forget(self, pid: int) -> None:
        self._pids.discard(pid)
        if pid == self._observer:
            self._observer = None

    def stack_files(self, slot: int) -> str:
        """Return at most 1 MiB of the stacks that the last worker of `slot` left when it crashed, often none."""
        return self._stack_files.read(slot, _STACKS_BYTES).decode("utf-8", "backslashreplace")

    def send(self, pid: int, signum: signal.Signals) -> None:
        """Send `signum` to a child that was not reaped yet."""
        if pid not in self._pids and pid != self._observer:
            raise InvariantError(f"process {pid} is not an unreaped child of this master")
        os.kill(pid, signum)

    def send_to_all(self, signum: signal.Signals) -> None:
        """Send `signum` to every worker that was not reaped yet."""
        for pid in self._pids:
            os.kill(pid, signum)

    def end_all(self, grace_s: float) -> None:
        """Ask every worker to stop, wait up to `grace_s` seconds, kill the rest and the observer, and reap them all."""
        self.send_to_all(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self._pids and time.monotonic() < deadline:
            self.reap()
            time.sleep(_REAP_LOOK_S)
        self.send_to_all(signal.SIGKILL)
        if self._observer is not None:
            self.send(self._observer, signal.SIGKILL)
        while self._pids or self._observer is not None:
            self.reap()
            time.sleep(_REAP_LOOK_S)


def _assert_one_thread() -> None:
    """Refuse to fork beside other threads, native ones included: a lock that they hold stays locked in the child."""
    tasks = Path("/proc/self/task")
    threads = sum(1 for _ in tasks.iterdir()) if tasks.exists() else threading.active_count()
    if threads != 1:
        raise InvariantError(f"the master has {threads} threads and must have one to fork")


@dataclass(frozen=True, slots=True)
class _Life:
    """What a child does: `run` returns its exit code, `kept` are the descriptors that it inherits."""

    slot: int
    """The slot of a worker; 0 for the observer."""
    run: Callable[[], int]
    stacks_fd: int = 2
    kept: Set[int] = frozenset()


def _fork(life: _Life) -> int:
    """Fork a child that leads this life, and return its pid."""
    _assert_one_thread()
    master_pid = os.getpid()
    gc.disable()  # a collection in the child before it enables it again would copy the master's pages
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _lead(life, master_pid, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        gc.enable()
    return pid


def _lead(life: _Life, master_pid: int, mask: Set[int]) -> NoReturn:
    """Run the child until it exits. Nothing that happens here may return into the master's frames."""
    code: int = ExitCode.RUNTIME
    try:
        _leave_the_master(master_pid, life)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        gc.enable()
        code = int(life.run()) & 0xFF
    except SystemExit as request:
        code = exit_code_of(request)
    except BaseException:
        text = "slot %d: the worker failed"
        _WORKER_LOG.exception(text, life.slot, extra=log_event("worker_failed", worker=life.slot))
    finally:
        try:
            flush()
        finally:
            os._exit(code)


def _leave_the_master(master_pid: int, life: _Life) -> None:
    """Drop what the child inherited, with all signals still blocked."""
    signal.set_wakeup_fd(-1)
    for signum in TAKEN | _NOT_FATAL:
        signal.signal(signum, do_nothing if signum in _NOT_FATAL else signal.SIG_DFL)
    _close_inherited_fds(_STANDARD_FDS | {life.stacks_fd} | life.kept)
    bind_to_parent(master_pid, life.stacks_fd)
    if life.slot:
        claim(life.stacks_fd, *life.kept)
    forget_inherited()


def _close_inherited_fds(kept: Set[int]) -> None:
    """Close all others. The board needs no descriptor: see `board.memory`."""
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # this is the descriptor of the listing itself, which the end of the listing closed
