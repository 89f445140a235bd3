"""Directives: what the master tells all its workers to do until further notice. They are on the board.

Only the master writes them. Then it sends the workers SIGURG, and they read them. A worker also reads them when it
starts, so that a later worker follows them too, and at each heartbeat, so that a lost signal costs at most a second.

Layout, before the slots of the board:

    field      size        meaning
    -----      ----        -------
    words      8 x 8       see `_Word`
    paused     64 x 256    a flag, 1 when the entry is taken, and the name of a queue, padded with NUL
    alone      16 x 256    the same

The flag is written last when an entry is taken, and first when it is released. A worker that reads while the entry is
taken for another queue may still see a wrong name; it is told to read again when everything is written.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from mxworker.wire.field_table import SHORT_STRING_BYTES

PAUSED_QUEUES = 64
ALONE_QUEUES = 16

_WORDS_BYTES = 8 * 8
_ENTRY_BYTES = 256
_ALONE_AT = _WORDS_BYTES + PAUSED_QUEUES * _ENTRY_BYTES
DIRECTIVES_BYTES = _ALONE_AT + ALONE_QUEUES * _ENTRY_BYTES


class _Word(IntEnum):
    ALL_PAUSED = 0
    LOG_LEVEL = 1
    ALONE_RESTS = 2


class Directives:
    """The directives for all workers, as they are on the board."""

    def __init__(self, view: memoryview) -> None:
        """Use `view`, of DIRECTIVES_BYTES bytes; all zero means: no directives."""
        self._words = view[:_WORDS_BYTES].cast("Q")
        entries = [view[at : at + _ENTRY_BYTES] for at in range(_WORDS_BYTES, DIRECTIVES_BYTES, _ENTRY_BYTES)]
        self._entries, self._alone = entries[:PAUSED_QUEUES], entries[PAUSED_QUEUES:]

    @property
    def all_paused(self) -> bool:
        """Whether no queue shall be consumed."""
        return bool(self._words[_Word.ALL_PAUSED])

    @property
    def paused_queues(self) -> tuple[str, ...]:
        """The queues that are paused by name; at most 64."""
        return tuple(_name_in(entry) for entry in self._entries if entry[0])

    @property
    def alone_queues(self) -> tuple[str, ...]:
        """The queues whose messages shall all run alone; at most 16."""
        return tuple(_name_in(entry) for entry in self._alone if entry[0])

    @property
    def alone_rests(self) -> bool:
        """Whether no message of these queues shall start now."""
        return bool(self._words[_Word.ALONE_RESTS])

    @property
    def log_level(self) -> int | None:
        """The level of the root logger, as a number of the logging module; None for that of the start."""
        return self._words[_Word.LOG_LEVEL] or None

    def wants_paused(self, queue: str) -> bool:
        """Whether `queue` shall not be consumed."""
        return self.all_paused or queue in self.paused_queues

    # ---- the master's side

    def pause_all(self) -> None:
        """Have no queue consumed until `resume_all`."""
        self._words[_Word.ALL_PAUSED] = 1

    def resume_all(self) -> None:
        """Undo `pause_all`. Queues that were paused by name stay paused."""
        self._words[_Word.ALL_PAUSED] = 0

    def pause(self, queue: str) -> None:
        """Have `queue` not consumed until `resume`. A second call changes nothing.

        Raises ValueError when 64 others are paused by name, and for a name that no queue can have.
        """
        raw = queue.encode("utf-8", "replace")
        if not 0 < len(raw) <= SHORT_STRING_BYTES or b"\0" in raw:
            raise ValueError(
                f"{queue[:SHORT_STRING_BYTES]!r} is no name of a queue: it has 1 to 255 bytes, none is NUL"
            )
        if queue in self.paused_queues:
            return
        free = next((entry for entry in self._entries if not entry[0]), None)
        if free is None:
            raise ValueError(f"{PAUSED_QUEUES} queues are paused by name, which is all there is room for")
        free[1:] = raw.ljust(SHORT_STRING_BYTES, b"\0")
        free[0] = 1

    def resume(self, queue: str) -> None:
        """Undo `pause` of this queue; do nothing when it is not paused by name."""
        for entry in self._entries:
            if entry[0] and _name_in(entry) == queue:
                entry[0] = 0

    def run_alone(self, queues: Collection[str], rests: bool) -> None:
        """Have all messages of these queues run alone, and of no others; only the first 16 count.

        While `rests`, none of them shall be started.
        """
        self._words[_Word.ALONE_RESTS] = rests
        for entry in self._alone:
            if entry[0] and _name_in(entry) not in queues:
                entry[0] = 0
        for queue in queues:
            free = next((entry for entry in self._alone if not entry[0]), None)
            if queue not in self.alone_queues and free is not None:
                free[1:] = queue.encode("utf-8", "replace")[:SHORT_STRING_BYTES].ljust(SHORT_STRING_BYTES, b"\0")
                free[0] = 1

    def set_log_level(self, level: int) -> None:
        """Have all workers log from `level` on, a number of the logging module."""
        self._words[_Word.LOG_LEVEL] = level


def no_directives() -> Directives:
    """Return empty directives, for a worker without a master."""
    return Directives(memoryview(bytearray(DIRECTIVES_BYTES)))


def _name_in(entry: memoryview) -> str:
    return bytes(entry[1:]).partition(b"\0")[0].decode("utf-8", "replace")
