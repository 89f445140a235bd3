"""The terminal while `top` owns it: keys one by one, and signals as events between two looks.

Every way out restores the terminal: a key, Ctrl-C, SIGTERM, SIGHUP, and SIGTSTP, after which the shell has it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import suppress
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import Any, Self

_QUIT_KEYS = b"qQ\x03\x04"
_SIGNALS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_QUIT_SIGNALS = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGINT})


class Event(Enum):
    """What ended a wait."""

    DUE = auto()
    """The time is up."""
    CHANGED = auto()
    """The terminal has another size, or a key was pressed."""
    SUSPEND = auto()
    QUIT = auto()


class Keyboard:
    """The keys and signals of a terminal, for the length of a `with` block."""

    def __enter__(self) -> Self:
        """Read keys without an echo and without waiting for the end of a line."""
        self._fd = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._mode = termios.tcgetattr(self._fd) if self._fd >= 0 else None
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._writer)
        self._handlers: dict[int, Any] = {number: signal.signal(number, _noted) for number in _SIGNALS}
        if self._fd >= 0:
            tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the terminal and the signal handlers."""
        if self._mode is not None:
            with suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._mode)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, until: float) -> Event:
        """Wait for a key, a signal, or the monotonic time `until`."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if self._fd >= 0:
            poll.register(self._fd, select.POLLIN)
        ready = dict(poll.poll(max(0.0, until - time.monotonic()) * 1000))
        if not ready:
            return Event.DUE
        if self._reader in ready:
            numbers = set(os.read(self._reader, 1024))
            if numbers & _QUIT_SIGNALS:
                return Event.QUIT
            return Event.SUSPEND if signal.SIGTSTP in numbers else Event.CHANGED
        return self._pressed()

    def _pressed(self) -> Event:
        try:
            keys = os.read(self._fd, 1024)
        except OSError:  # the terminal has gone
            return Event.QUIT
        return Event.QUIT if not keys or set(keys) & set(_QUIT_KEYS) else Event.CHANGED


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number of the signal is in the pipe."""


def stop_here() -> None:
    """Stop this process as Ctrl-Z does, until the shell continues it; without a shell that could, go on."""
    signal.raise_signal(signal.SIGTSTP)
