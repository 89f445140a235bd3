"""Ids for messages that are published without one."""

from __future__ import annotations

import base64
import itertools
import os

_PREFIX_BYTES = 12  # 16 characters; two of 2**48 processes would share one by chance


class MessageIds:
    """Makes ids of 24 ASCII characters (more after 2**32 ids): a random prefix and a count.

    The ids are unique over processes, forks and threads: a child that inherits this object takes a prefix of its own. A
    UUID for each message would cost five times as much.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        # From the kernel, since forks inherit the state of the random module, and seeds set it.
        self._prefix = base64.urlsafe_b64encode(os.urandom(_PREFIX_BYTES))
        self._next_number = itertools.count().__next__
        self._pid = os.getpid()

    def next(self) -> bytes:
        """Return a new id."""
        if os.getpid() != self._pid:  # cheap, and detects forks that Python did not make, unlike a hook
            self._start()
        return self._prefix + b"%08x" % self._next_number()
