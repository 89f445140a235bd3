"""Taking the profiles that the master asks for on the board, in a thread, so that the event loop may be blocked.

The thread of the watchdog looks for a request four times a second. The result goes into a file in memory that the
master made before the fork, so that a worker with a read-only root, or without any directory of its own, can be
profiled too, and a profile never writes to a disk. When the result is complete, the words of the slot say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from mxworker import __version__
from mxworker.board.layout import PROFILE_BYTES, Given, ProfileKind, Word
from mxworker.board.slot import BoardSlot
from mxworker.system.log_events import log_event
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.profiling.allocations import Stopped
from mxworker.worker.profiling.recording import joined
from mxworker.worker.profiling.remote import RemoteProfile
from mxworker.worker.profiling.sampler import Sampler
from mxworker.worker.profiling.taking import sampled, traced

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05
_LATE_S = 5.0  # how much longer than this process another one may take
_DEFAULT_TASK_NAME = "Task-"


class Member(Protocol):
    """Another process of this worker."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def profile(self) -> RemoteProfile:
        """What takes profiles of it."""


class Profiler:
    """Takes at most one profile at a time of this worker. `look` belongs to one thread."""

    def __init__(
        self,
        slot: BoardSlot,
        loop: asyncio.AbstractEventLoop,
        runners: Sequence[HandlerRunner],
        members: Callable[[], Sequence[Member]],
    ) -> None:
        """`runners` may be filled later. `members` returns the processes that are profiled too, from any thread."""
        self._slot = slot
        self._loop = loop
        self._runners = runners
        self._members = members
        self._seen = 0
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin the profile that is wanted, unless it was begun before, or another has not ended yet."""
        number = self._slot.given[Given.PROFILE_WANTED]
        if number == self._seen or (self._thread is not None and self._thread.is_alive()):
            return
        self._seen = number
        if number:
            self._thread = threading.Thread(target=self._run, args=(number,), name="mxworker-profiler", daemon=True)
            self._thread.start()

    def _run(self, number: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals interrupt the main thread only
        words = self._slot.words
        words[Word.PROFILE_BEGUN] = number
        try:
            result, has_failed = self._taken(number), False
        except Stopped:
            return
        except Exception as error:  # as far out as this thread has a frame
            log.exception(
                "worker %d: a profile failed",
                self._slot.number,
                extra=log_event("profile_failed", worker=self._slot.number),
            )
            result, has_failed = f"{type(error).__name__}: {error}".encode("utf-8", "replace"), True
        if self._is_wanted(number):
            is_written = self._write(result)
            words[Word.PROFILE_SIZE] = len(result) if is_written else 0
            words[Word.PROFILE_FAILED] = has_failed or not is_written
            words[Word.PROFILE_ENDED] = number  # written last: from now on the master reads the file

    def _taken(self, number: int) -> bytes:
        given = self._slot.given
        seconds, kind = given[Given.PROFILE_MS] / 1000, ProfileKind(given[Given.PROFILE_KIND])
        title = f"worker {self._slot.number}, process {os.getpid()}, for {seconds:g} s"
        members = list(self._members())
        for member in members:
            member.profile.begin(number, kind, seconds)
        try:
            match kind:
                case ProfileKind.CPU:
                    result = self._cpu(title, number, seconds, members)
                case ProfileKind.MEMORY:
                    result = self._memory(title, number, seconds, members)
        except BaseException:
            for member in members:
                member.profile.stop()
            raise
        if len(result) > PROFILE_BYTES:
            raise ValueError(f"the result has {len(result)} bytes, and may have {PROFILE_BYTES}; ask for fewer seconds")
        return result

    def _cpu(self, title: str, number: int, seconds: float, members: Sequence[Member]) -> bytes:
        recording = sampled(Sampler(self._loop, self._label_of), seconds, lambda: self._is_wanted(number))
        cut = f", without {recording.dropped} samples for which there was no room" if recording.dropped else ""
        results = self._of_members(number, members)
        own = recording.speedscope(f"CPU time of {title}{cut}{_without(results)}", f"mxworker {__version__}")
        others = {f"process {pid} for cpu handlers": orjson.loads(result) for pid, result in results.items() if result}
        return orjson.dumps(joined(own, others))

    def _memory(self, title: str, number: int, seconds: float, members: Sequence[Member]) -> bytes:
        own = traced(title, seconds, lambda: self._is_wanted(number))
        results = self._of_members(number, members)
        parts = [own.encode("utf-8", "replace"), *results.values(), _without(results).removeprefix(", ").encode()]
        return b"\n\n".join(filter(None, parts))

    def _of_members(self, number: int, members: Sequence[Member]) -> dict[int, bytes]:
        """Wait a little for the results of the other processes, and return them by the process id.

        The result is empty for a process whose code has let no other thread run, or which has ended.
        """
        results = dict.fromkeys((member.pid for member in members), b"")
        missing = list(members)
        deadline = time.monotonic() + _LATE_S
        while missing and time.monotonic() < deadline:
            if not self._is_wanted(number):
                raise Stopped
            for member in tuple(missing):
                try:
                    result = member.profile.result()
                except EOFError:
                    missing.remove(member)
                else:
                    if result is not None:
                        missing.remove(member)
                        results[member.pid] = result
            time.sleep(_LOOK_EVERY_S if missing else 0)
        for member in missing:
            member.profile.stop()
        return results

    def _label_of(self, task: asyncio.Task[Any]) -> str:
        """Return for what a task works: the handler of its delivery, or the name that the application gave it."""
        handler = next((runner.handler.name for runner in self._runners if runner.is_run_by(task)), None)
        if handler is not None:
            return f"handler {handler}"
        name = task.get_name()
        return "" if name.startswith(_DEFAULT_TASK_NAME) else f"task {name}"

    def _is_wanted(self, number: int) -> bool:
        return bool(self._slot.given[Given.PROFILE_WANTED] == number)

    def _write(self, result: bytes) -> bool:
        """Write the result to the file for it, and return whether that is still open.

        Code of others may have closed the descriptor, which may be that of a socket by now.
        """
        fd = self._slot.given[Given.PROFILE_FD]
        try:
            if not str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("/memfd:mxworker-profile"):
                raise OSError("the descriptor is that of another file")
            os.ftruncate(fd, 0)
            at = 0
            while at < len(result):
                at += os.pwrite(fd, result[at:], at)
        except OSError as error:
            facts = log_event("profile_unwritten", worker=self._slot.number, error=str(error))
            log.warning("worker %d: a profile cannot be handed over: %s", self._slot.number, error, extra=facts)
            return False
        return True


def _without(results: Mapping[int, bytes]) -> str:
    """Return which processes are missing in a profile, for its title or end; empty when none is."""
    missing = [str(pid) for pid, result in results.items() if not result]
    return f", without process {', '.join(missing)} for cpu handlers, which gave no profile" if missing else ""
