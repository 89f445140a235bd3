r"""The terminal of `mxworker dev`: keys one by one, without an echo, for as long as the command is in its foreground.

    in the foreground    each look puts the terminal into that mode, if a shell has changed it, and reads keys
    in the background    the terminal belongs to others: it is neither read nor changed, so no SIGTTIN or SIGTTOU comes
    Ctrl-Z               the terminal is restored, and this process stops; the next look after `fg` is as above
    the end              `close` restores it in the foreground; in the background the shell has restored it already

Ctrl-C, Ctrl-Z and Ctrl-\ send their signals as before. Nothing here waits: the terminal is opened a second time, so
that reading without waiting does not change it for others (open(2): O_NONBLOCK belongs to one opening).
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_TERMINAL = "/dev/tty"
_READ_BYTES = 1024
_LOCAL_MODES = 3  # the index of these flags in a mode: termios(3)
_FOR_JOBS = {signal.SIGTTIN, signal.SIGTTOU}


def has_keyboard() -> bool:
    """Tell whether a person may press keys: stdin and stderr are a terminal, and it controls this process."""
    try:
        os.tcgetpgrp(sys.stdin.fileno())
        return sys.stderr.isatty()
    except (OSError, ValueError, AttributeError):  # no terminal, or another one than ours; a closed stdin
        return False


class Keyboard:
    """The keys of the controlling terminal. Make it in the main thread, and call `close` at every end."""

    def __init__(self) -> None:
        """Open the terminal. Keys that were typed before count for nothing. Raises OSError."""
        self._fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._restored_to: list[Any] | None = None
        self._is_to_stop = False
        self._stop_handler = signal.getsignal(signal.SIGTSTP)
        if self._stop_handler is not signal.SIG_IGN:  # ignored: the shell has no jobs
            signal.signal(signal.SIGTSTP, self._note_stop)
        if self._is_in_foreground():
            with suppress(termios.error):
                termios.tcflush(self._fd, termios.TCIFLUSH)

    def look(self) -> bytes:
        """Return what was typed since the last look. After Ctrl-Z, first stop until the shell says to continue."""
        if self._is_to_stop:
            self._stop()
        if not self._is_in_foreground():
            return b""
        with (
            _unstopped(),
            suppress(OSError, termios.error),
        ):  # the terminal has gone, or is in other hands
            self._take()
            return os.read(self._fd, _READ_BYTES)
        return b""

    def close(self) -> None:
        """Restore the terminal, and leave Ctrl-Z to the kernel again."""
        self._restore()
        if self._stop_handler is not signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, self._stop_handler)
        os.close(self._fd)

    def _restore(self) -> None:
        """Restore the mode of the terminal, unless others have the terminal now."""
        mode, self._restored_to = self._restored_to, None
        if mode is not None and self._is_in_foreground():
            with _unstopped(), suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSANOW, mode)  # TCSADRAIN waits for a terminal that Ctrl-S holds

    def _take(self) -> None:
        """Make the terminal give keys at once, and remember the mode that a shell has given it."""
        mode = termios.tcgetattr(self._fd)
        if mode[_LOCAL_MODES] & (termios.ICANON | termios.ECHO):
            self._restored_to = mode
            tty.setcbreak(self._fd, termios.TCSANOW)

    def _note_stop(self, signum: int, frame: FrameType | None) -> None:
        """Only note the signal: `look` stops this process between two steps."""
        self._is_to_stop = True

    def _stop(self) -> None:
        """Stop by the default action, which the kernel withholds where no shell could continue us (setpgid(2))."""
        self._is_to_stop = False
        self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note_stop)

    def _is_in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # the terminal has gone
            return False


@contextmanager
def _unstopped() -> Iterator[None]:
    """Have the kernel refuse with EIO what it would stop a background process for, in case this one has become one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_JOBS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
