"""The terminal that this process was started on, and whether it has gone.

SIGHUP has two meanings: an operator wants a reload, or the terminal has hung up. The signal does not say which, but the
controlling terminal does: after a hang-up it does not exist (tty(4), ENXIO), or gives only errors (EIO).
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress

SETTLES_S = 0.25
"""The seconds for which a terminal may still look alive after a SIGHUP.

When the leader of a session ends, the kernel first sends SIGHUP and then takes the terminal from the session.
"""

_GONE = frozenset({errno.ENXIO, errno.EIO})


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal, so that a person may sit before it."""
    return _error_of_opening() == 0


class Terminal:
    """The controlling terminal of this process as it was when this object was made."""

    def __init__(self) -> None:
        """Look for the terminal. A process that ignores SIGHUP, as under nohup(1), counts as having none."""
        is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self.was_there = not is_ignored and has_terminal()

    @property
    def has_gone(self) -> bool:
        """Whether there was a terminal, and it has hung up."""
        return self.was_there and _error_of_opening() in _GONE


def _error_of_opening() -> int:
    """Return the errno of opening the controlling terminal, 0 when it can be opened."""
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    with suppress(OSError):
        os.close(fd)
    return 0
