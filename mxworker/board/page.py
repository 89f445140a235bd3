"""The board: the shared memory through which master and workers see each other.

The master maps it before the first fork, and every worker inherits it. It holds the master's section and one *slot* of
fixed size per worker; nothing in it grows. There are no locks: every word has one writer at a time, and words are 8
bytes, aligned, and stored in one move. Instants are `time.monotonic_ns()`, which is one clock for all processes of a
machine. Each process can write to its own section only, see `memory`:

    section        writer                          what is in it
    -------        ------                          -------------
    the master's   master                          the master's words, some of them for each slot; the directives,
                                                   see `directives`; the suspects, see `suspects`; the status of the
                                                   service, see `status_area`
    a slot         its worker, and the master      the worker's state and deliveries, see `layout`; its metrics, see
                   while there is no worker        `metrics_layout`
    the observer's the observer, and the master    the observer's heartbeat deadline
                   while there is no observer

Every process may read everything, and tolerates any bytes. The master reads a slot through `CheckedSlot`, which
refuses what cannot be true.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import takewhile

from mxworker.board.checked import CheckedSlot
from mxworker.board.directives import DIRECTIVES_BYTES, Directives
from mxworker.board.layout import GIVEN_WORDS, WORD_BYTES, Given, metrics_at, slot_bytes
from mxworker.board.memory import SharedMemory
from mxworker.board.reading import Told
from mxworker.board.slot import BoardSlot
from mxworker.board.status_area import STATUS_AREA_BYTES, StatusArea
from mxworker.board.suspects import TABLE_BYTES, Suspects
from mxworker.wire.message_keys import SECRET_BYTES

_MASTERS = 0  # the number of the master's section; that of a slot is its own, and the observer's is the last
_HEAD_WORDS = 8
_OBSERVERS_BYTES = 8 * WORD_BYTES


class _Head(IntEnum):
    """The words of the master that are about no slot."""

    EVER_READY = 0


class _Observed(IntEnum):
    """The words of the observer."""

    DEADLINE_NS = 0


class Board:
    """The shared memory with its slots, numbered from 1.

    The master makes it, and a child takes its own view by `of_worker` or `of_observer`. There is no `close`: the kernel
    unmaps it.
    """

    def __init__(self, slots: int, may_seal: bool = True) -> None:
        """Map the memory for `slots` workers, all words zero. Raises OSError when the machine has no room for it."""
        self.secret = os.urandom(SECRET_BYTES)
        """For the keys of messages: the same in all processes, and in no other service."""
        self._numbers = range(1, slots + 1)
        masters_bytes = (_HEAD_WORDS + slots * GIVEN_WORDS) * WORD_BYTES + DIRECTIVES_BYTES + TABLE_BYTES
        masters_bytes += STATUS_AREA_BYTES
        self._memory = SharedMemory([masters_bytes, *map(slot_bytes, self._numbers), _OBSERVERS_BYTES], may_seal)
        self._observers = slots + 1
        self._section: Callable[[int], memoryview] = self._memory.writable
        self._lay_out()

    def _lay_out(self) -> None:
        directives_at = (_HEAD_WORDS + len(self._numbers) * GIVEN_WORDS) * WORD_BYTES
        suspects_at = directives_at + DIRECTIVES_BYTES
        view = self._section(_MASTERS)
        self._words = view[:directives_at].cast("Q")
        self.directives = Directives(view[directives_at:suspects_at])
        status_at = suspects_at + TABLE_BYTES
        self.suspects = Suspects(view[suspects_at:status_at])
        self.status = StatusArea(view[status_at : status_at + STATUS_AREA_BYTES])
        self._observed = self._section(self._observers)[:_OBSERVERS_BYTES].cast("Q")
        self._slots: dict[int, BoardSlot] = {}
        self._checked: dict[int, CheckedSlot] = {}

    @property
    def weakness(self) -> str:
        """Why code in a worker could write to other sections; "" where it cannot."""
        return self._memory.weakness

    @property
    def slots(self) -> tuple[BoardSlot, ...]:
        """All slots."""
        return tuple(map(self.slot, self._numbers))

    def slot(self, number: int) -> BoardSlot:
        """Return slot `number`, counted from 1."""
        slot = self._slots.get(number)
        if slot is None:
            at = _HEAD_WORDS + (number - 1) * GIVEN_WORDS
            given = self._words[at : at + GIVEN_WORDS]
            section, middle = self._section(number), metrics_at(number)
            areas = section[:middle], section[middle : slot_bytes(number)]
            slot = BoardSlot(number, *areas, given, self.suspects, self.secret, lambda: self.used)
            self._slots[number] = slot
        return slot

    @property
    def used(self) -> Iterator[BoardSlot]:
        """Yield the slots that ever had a process; they are filled from the first one on.

        The other slots are not read: a page of memory that nobody has touched takes no memory.
        """
        return takewhile(lambda slot: slot.given[Given.SPAWNS], map(self.slot, self._numbers))

    @property
    def ever_ready(self) -> bool:
        """Whether any worker of this master ever consumed from all its queues, as far as the master has seen."""
        return bool(self._words[_Head.EVER_READY])

    # ---- the master's side

    def checked(self, number: int) -> CheckedSlot:
        """Return slot `number` as the master reads it."""
        checked = self._checked.get(number)
        if checked is None:
            checked = self._checked[number] = CheckedSlot(self.slot(number))
        return checked

    def told(self, number: int) -> Told:
        """Return what the worker of a slot had written at the last look."""
        return self.checked(number).told

    def note_ever_ready(self) -> None:
        """Note that a worker has consumed from all its queues, for all processes to see."""
        self._words[_Head.EVER_READY] = 1

    # ---- a worker's side

    def of_worker(self, number: int) -> Board:
        """Return the board for the worker in slot `number`: it can write to that slot, and read the rest.

        Call in the child, before any code of others is loaded. The child must not use the parent's board after that.
        Raises OSError.
        """
        return self._of_child(number)

    def _of_child(self, own: int) -> Board:
        memory = self._memory
        memory.keep(own)
        board = copy.copy(self)
        board._section = lambda section: memory.writable(own) if section == own else memory.readable(section)
        board._lay_out()
        return board

    # ---- the observer's side

    def of_observer(self) -> Board:
        """Return the board for the observer, as `of_worker` does for a worker: it can write only its own heartbeat."""
        return self._of_child(self._observers)

    @property
    def observer_deadline_ns(self) -> int:
        """The instant by which the observer promised to beat again."""
        return self._observed[_Observed.DEADLINE_NS]

    def beat_as_observer(self, deadline_ns: int) -> None:
        """Promise to beat again before `deadline_ns`: the observer, and the master before the fork."""
        self._observed[_Observed.DEADLINE_NS] = deadline_ns
