"""Profiles of another process of the worker, one that executes `cpu=True` handlers, over a socket of their own.

    worker -> member   a request with a number, and SIGURG, so that the member need not wait for requests
    worker -> member   a request with the kind 0: stop
    member -> worker   the number and the result; no bytes when the profile failed

The member takes the profile in a thread that it has for this time only, whatever its handler does. A result that comes
too late is told by its number, and thrown away.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import orjson

from mxworker import __version__
from mxworker.board.layout import PROFILE_BYTES, ProfileKind
from mxworker.system.log_events import log_event
from mxworker.worker.profiling.allocations import Stopped
from mxworker.worker.profiling.sampler import Sampler
from mxworker.worker.profiling.taking import sampled, traced

log = logging.getLogger(__name__)

_REQUEST = struct.Struct(">QII")  # number, kind, milliseconds
_ANSWER = struct.Struct(">QQ")  # number, bytes of the result
_STOP = 0
_READ_BYTES = 1024 * 1024


class RemoteProfile:
    """The worker's end. Calls return at once, and may come from any thread."""

    def __init__(self, end: socket.socket, wake: Callable[[], None]) -> None:
        """Take over `end`, one of a socket pair. `wake` sends SIGURG to the process."""
        end.setblocking(False)
        self._end = end
        self._wake = wake
        self._lock = threading.Lock()
        self._number = 0
        self._received = bytearray()

    def begin(self, number: int, kind: ProfileKind, seconds: float) -> None:
        """Have the process take a profile. Nothing happens when it has ended."""
        self._number = number
        self._send(number, kind, round(seconds * 1000))
        self._wake()

    def stop(self) -> None:
        """Tell the process that the profile is not wanted any more."""
        self._send(self._number, _STOP, 0)

    def result(self) -> bytes | None:
        """Return the result, None while it is not complete. Raises EOFError when there will be none."""
        with self._lock:
            has_ended = self._receive()
            while (answer := self._answer()) is not None:
                number, result = answer
                if number == self._number:
                    return result
        if has_ended:
            raise EOFError("the process has ended")
        return None

    def close(self) -> None:
        """Close this end."""
        with self._lock:
            self._end.close()

    def _send(self, number: int, kind: int, milliseconds: int) -> None:
        with self._lock, suppress(OSError):  # the process has ended, or has not read thousands of requests
            self._end.send(_REQUEST.pack(number, kind, milliseconds))

    def _receive(self) -> bool:
        """Read what there is, and return whether nothing will follow."""
        try:
            while data := self._end.recv(_READ_BYTES):
                self._received += data
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _answer(self) -> tuple[int, bytes] | None:
        if len(self._received) < _ANSWER.size:
            return None
        number, size = _ANSWER.unpack_from(self._received)
        if size > PROFILE_BYTES:
            raise EOFError("the process answers what is no profile")
        end = _ANSWER.size + size
        if len(self._received) < end:
            return None
        result = bytes(self._received[_ANSWER.size : end])
        del self._received[:end]
        return number, result


class ProfiledProcess:
    """The member's end: it takes profiles of this process."""

    def __init__(self, end: socket.socket, worker: int) -> None:
        """Take over `end`. Make it, and install `on_signal` for SIGURG, in the main thread."""
        self._end = end
        self._worker = worker
        self._turn = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that executes handlers, once there is one."""
        self.label = ""
        """For what the main thread works now."""

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Begin to serve requests.

        The thread is not one of `threading`, whose lock the interrupted code may hold.
        """
        _thread.start_new_thread(self._serve, ())

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals interrupt the main thread only
        with self._turn, suppress(OSError):
            while self._is_asked():
                number, kind, milliseconds = _REQUEST.unpack(self._end.recv(_REQUEST.size, socket.MSG_WAITALL))
                if kind != _STOP:
                    result = self._taken(ProfileKind(kind), milliseconds / 1000)
                    self._end.sendall(_ANSWER.pack(number, len(result)) + result)

    def _is_asked(self) -> bool:
        """Whether there is another request: the present one is then not wanted any more."""
        try:
            return bool(self._end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def _taken(self, kind: ProfileKind, seconds: float) -> bytes:
        title = f"a process for cpu handlers of worker {self._worker}, process {os.getpid()}, for {seconds:g} s"
        try:
            match kind:
                case ProfileKind.CPU:
                    assert self.loop is not None
                    sampler = Sampler(self.loop, lambda task: self.label)
                    recording = sampled(sampler, seconds, lambda: not self._is_asked())
                    return orjson.dumps(recording.speedscope(f"CPU time of {title}", f"mxworker {__version__}"))
                case ProfileKind.MEMORY:
                    return traced(title, seconds, lambda: not self._is_asked()).encode("utf-8", "replace")
        except Stopped:
            return b""
        except Exception:  # as far out as this thread has a frame
            facts = log_event("cpu_process_profile_failed", worker=self._worker)
            log.exception("worker %d: a profile of a process for cpu handlers failed", self._worker, extra=facts)
            return b""
