"""The board: one shared anonymous page area through which master and workers see each other.

It is mapped by the master before the first fork and inherited by every worker. It holds the directives (see
`directives`) and one fixed-size *slot* per worker; nothing in it grows. There are no locks: every word has one
writer at a time, and words are 8 bytes, aligned, stored in one move. Instants are `time.monotonic_ns()`, which is one
clock for all processes of a machine.

Layout of a slot, in order:

    field          size          writer                              meaning
    -----          ----          ------                              -------
    words          32 x 8        see `Word`                          state, heartbeat deadline, counters
    note           4096          worker                              UTF-8: what it wants the master to say for it
    directory      64 x 64       worker                              names of its handlers
    queues         64 x 256      worker                              names of their queues, at the same places
    in-flight      256 x 128     worker                              what is known of a started delivery
    keys           65536 x 8     worker                              see `message_keys`, of each started delivery

A started delivery has a place among the keys until it has finished: a key that is not 0 is a delivery in flight. It is
counted, and is suspect when the process dies. What has one of the first 256 places is described at the same place of
the in-flight area as well. From the 65th slot on there are 4096 places. A page that was never used takes no memory;
`Word.PLACES_USED` says how many places were.

After the slots comes the table of suspects, see `suspects`.

Invariant: a reader may find an entry or a note half written (its writer was killed in the middle), so readers
tolerate any bytes and never trust a length or a number.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, auto
from itertools import accumulate, pairwise, takewhile

from mxworker.board.directives import DIRECTIVES_BYTES, Directives
from mxworker.board.lifecycle import Wish, WorkerState
from mxworker.board.suspects import TABLE_BYTES, Suspects
from mxworker.system.printable import foreign
from mxworker.wire.message_keys import SECRET_BYTES

NOTE_BYTES = 4096
HANDLER_NAMES = 64
NAME_BYTES = 64
QUEUE_BYTES = 256  # a queue's name has at most 255 bytes: it is a short string of AMQP
IN_FLIGHT_ENTRIES = 256
PLACES = 65_536
"""How many deliveries in flight a slot has places for: as many as the largest prefetch lets there be of one queue."""
FEWER_PLACES = 4096
SLOTS_WITH_ALL_PLACES = 64  # all 513 with all would be a mapping of 290 MB, which a small machine may refuse
MESSAGE_ID_BYTES = 96

_WORD_BYTES = 8
_SIGN = 1 << 64  # what a negative number of 64 bits is short of when it is read without a sign
_WORDS = 32
_ENTRY = struct.Struct(f"<BxHIQQ{MESSAGE_ID_BYTES}s")
_ENTRY_BYTES = 128
_NOTE_AT = _WORDS * _WORD_BYTES
_NAMES_AT = _NOTE_AT + NOTE_BYTES
_QUEUES_AT = _NAMES_AT + HANDLER_NAMES * NAME_BYTES
_ENTRIES_AT = _QUEUES_AT + HANDLER_NAMES * QUEUE_BYTES
_KEYS_AT = _ENTRIES_AT + IN_FLIGHT_ENTRIES * _ENTRY_BYTES

NO_ENTRY = -1
NO_KEY = 1
"""The key of a delivery of which nobody will ask."""

_STATES = {int(state): state for state in WorkerState}
_WISHES = {int(wish): wish for wish in Wish}


class Word(IntEnum):
    """The words of a slot. The master writes the first group, the worker the second, in turn the third."""

    GENERATION = 0
    SPAWNS = auto()
    ON_TRIAL = auto()
    ISOLATION_GRANTED = auto()
    """The request to run a suspect alone that the master granted; see `ISOLATION_WANTED`."""

    PID = auto()
    STATE = auto()
    WISH = auto()
    IS_BURST_OVER = auto()
    """Whether the worker leaves because it found its queues empty in a burst, and not because somebody told it to."""
    RSS_BYTES = auto()
    EVER_READY = auto()
    NOTE_LENGTH = auto()
    ACKED = auto()
    REQUEUED = auto()
    RETRIED = auto()
    REJECTED = auto()
    QUARANTINED = auto()
    STALE = auto()
    ISOLATION_WANTED = auto()
    """The number of a request to run a suspect alone, from 1; 0 while there is none."""
    IS_ALONE = auto()
    """Whether a suspect runs alone now; then `ALONE_KEY` is its key, as 64 bits without a sign."""
    ALONE_KEY = auto()

    PLACES_USED = auto()
    """How many of the places for deliveries in flight were ever used: the others need not be looked at."""
    UNPLACED = auto()
    """How many deliveries are in flight beside those that have a place."""

    DEADLINE_NS = auto()
    """Heartbeat deadline: the master writes the boot deadline before the fork, then only the worker writes it."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """One started delivery, as the board tells it."""

    handler: str
    queue: str
    message_id: str
    delivery_tag: int
    attempt: int
    started_ns: int
    key: int = NO_KEY
    """See `message_keys`."""


class Board:
    """The shared area with its slots, numbered from 1.

    A process that was forked from the creator shares it; `close` is never needed (the kernel unmaps it at exit).
    """

    def __init__(self, slots: int) -> None:
        """Map the area for `slots` workers, all words zero."""
        places = [PLACES if number < SLOTS_WITH_ALL_PLACES else FEWER_PLACES for number in range(slots)]
        ends = tuple(accumulate(_KEYS_AT + count * _WORD_BYTES for count in places))
        self.secret = os.urandom(SECRET_BYTES)
        """For the keys of messages: the same in all processes, and in no other service."""
        self._map = mmap.mmap(-1, DIRECTIVES_BYTES + ends[-1] + TABLE_BYTES)
        view = memoryview(self._map)
        self.orders = Directives(view[:DIRECTIVES_BYTES])
        view = view[DIRECTIVES_BYTES:]
        self.suspects = Suspects(view[ends[-1] :])
        self.slots = tuple(
            BoardSlot(number, view[at:end], self) for number, (at, end) in enumerate(pairwise((0, *ends)), start=1)
        )

    def slot(self, number: int) -> BoardSlot:
        """Return slot `number`, counted from 1."""
        return self.slots[number - 1]

    @property
    def used(self) -> Iterator[BoardSlot]:
        """Yield the slots that ever had a process; they are filled from the first one on.

        The others are not even looked at: a page that nobody has touched takes no memory.
        """
        return takewhile(lambda slot: slot.words[Word.SPAWNS], self.slots)

    @property
    def ever_ready(self) -> bool:
        """Whether any worker of this master ever consumed from all its queues."""
        return any(slot.ever_ready for slot in self.used)


class BoardSlot:
    """One worker's part of the board.

    `words` is public: the hot path adds to a counter with `slot.words[Word.ACKED] += 1`.
    """

    def __init__(self, number: int, view: memoryview, board: Board) -> None:
        self.number = number
        self.suspects = board.suspects
        self.secret = board.secret
        self._board = board
        self._view = view
        self.words = view[:_NOTE_AT].cast("Q")
        self._keys = view[_KEYS_AT:].cast("q")
        self._free: list[int] = []
        self._used = 0  # as the word says

    # ---- the master's side

    def prepare(self, generation: int, is_on_trial: bool, boot_deadline_ns: int) -> None:
        """Make the slot ready for a new process. Call before the fork, after the former process was reaped.

        Counters and EVER_READY stay: they belong to the slot, not to the process.
        """
        words = self.words
        words[Word.GENERATION] = generation
        words[Word.SPAWNS] += 1
        words[Word.ON_TRIAL] = is_on_trial
        words[Word.PID] = 0
        words[Word.STATE] = WorkerState.VACANT
        words[Word.WISH] = Wish.NONE
        words[Word.IS_BURST_OVER] = 0
        words[Word.RSS_BYTES] = 0
        words[Word.NOTE_LENGTH] = 0
        for word in (Word.ISOLATION_GRANTED, Word.ISOLATION_WANTED, Word.IS_ALONE):
            words[word] = 0
        self._view[_NAMES_AT:_KEYS_AT] = bytes(_KEYS_AT - _NAMES_AT)
        self._view[_KEYS_AT : _KEYS_AT + self._places_used * _WORD_BYTES] = bytes(self._places_used * _WORD_BYTES)
        words[Word.PLACES_USED] = words[Word.UNPLACED] = 0
        words[Word.DEADLINE_NS] = boot_deadline_ns

    @property
    def state(self) -> WorkerState:
        """What the worker says it does."""
        return _STATES.get(self.words[Word.STATE], WorkerState.VACANT)

    @property
    def deadline_ns(self) -> int:
        """The instant by which the worker promised to beat again."""
        return self.words[Word.DEADLINE_NS]

    @property
    def wish(self) -> Wish:
        """Why the worker wants to be replaced."""
        return _WISHES.get(self.words[Word.WISH], Wish.NONE)

    @property
    def is_burst_over(self) -> bool:
        """Whether the worker leaves because it found nothing more to do in a burst."""
        return bool(self.words[Word.IS_BURST_OVER])

    @property
    def is_on_trial(self) -> bool:
        """Whether the worker was started as a replacement: it must not wait for what only a human can change."""
        return bool(self.words[Word.ON_TRIAL])

    @property
    def ever_ready(self) -> bool:
        """Whether a worker of this slot, the present or a former one, ever consumed from all its queues."""
        return bool(self.words[Word.EVER_READY])

    @property
    def note(self) -> str:
        """What the worker wants said for it: why it cannot start, or what it consumes."""
        length = min(self.words[Word.NOTE_LENGTH], NOTE_BYTES)
        return bytes(self._view[_NOTE_AT : _NOTE_AT + length]).decode("utf-8", "replace")

    def in_flight(self) -> list[InFlight]:
        """Return what is known of deliveries that were started and not yet finished, 256 at most, oldest first."""
        found = []
        for place, key in enumerate(self._keys[: min(self._places_used, IN_FLIGHT_ENTRIES)]):
            if key:
                handler, id_length, attempt, tag, started_ns, raw = _ENTRY.unpack_from(
                    self._view, _ENTRIES_AT + place * _ENTRY_BYTES
                )
                message_id = foreign(raw[: min(id_length, MESSAGE_ID_BYTES)].decode("utf-8", "backslashreplace"))
                names = (self._handler_name(handler), self._queue_name(handler))
                found.append(InFlight(*names, message_id, tag, attempt, started_ns, key))
        return sorted(found, key=lambda delivery: delivery.started_ns)

    def keys_in_flight(self) -> list[int]:
        """Return the keys of all deliveries that were started and not yet finished, as far as they have a place."""
        return [key for key in self._keys[: self._places_used].tolist() if key]

    @property
    def in_flight_count(self) -> int:
        """How many deliveries were started and not yet finished."""
        return self._places_used - self._keys[: self._places_used].tolist().count(0) + self.words[Word.UNPLACED]

    @property
    def _places_used(self) -> int:
        return min(self.words[Word.PLACES_USED], len(self._keys))

    def consumes(self, queue: str) -> bool:
        """Whether a handler in the directory has this queue."""
        raw = queue.encode("utf-8", "replace")[:QUEUE_BYTES].ljust(QUEUE_BYTES, b"\0")
        names = bytes(self._view[_QUEUES_AT:_ENTRIES_AT])
        return bool(queue) and any(names[at : at + QUEUE_BYTES] == raw for at in range(0, len(names), QUEUE_BYTES))

    def queues(self) -> list[str]:
        """Return the queues of the handlers in the directory; empty before the worker has named them."""
        return [name for index in range(HANDLER_NAMES) if (name := self._queue_name(index))]

    def _handler_name(self, index: int) -> str:
        return self._text(_NAMES_AT + index * NAME_BYTES, NAME_BYTES) if index < HANDLER_NAMES else "other"

    def _queue_name(self, index: int) -> str:
        return self._text(_QUEUES_AT + index * QUEUE_BYTES, QUEUE_BYTES) if index < HANDLER_NAMES else "other"

    def _text(self, at: int, size: int) -> str:
        return bytes(self._view[at : at + size]).partition(b"\0")[0].decode("utf-8", "replace")

    def _write_text(self, text: str, at: int, size: int) -> None:
        self._view[at : at + size] = text.encode("utf-8", "replace")[:size].ljust(size, b"\0")

    def has_started(self, key: int) -> bool:
        """Whether a delivery of the message with this key was started and not yet finished."""
        keys, wanted = bytes(self._keys[: self._places_used]), key.to_bytes(_WORD_BYTES, "little", signed=True)
        at = keys.find(wanted)
        while at % _WORD_BYTES and at != -1:  # it lies across two keys
            at = keys.find(wanted, at + 1)
        return at != -1

    @property
    def alone_key(self) -> int | None:
        """The key of the suspect that runs alone; None while none does."""
        if not self.words[Word.IS_ALONE]:
            return None
        key = self.words[Word.ALONE_KEY]
        return key - _SIGN if key >= _SIGN >> 1 else key

    def queues_in_flight(self) -> Counter[str]:
        """Count the deliveries in flight of each queue that the board can name."""
        named = set(self.queues())
        return Counter(held.queue for held in self.in_flight() if held.queue in named)

    @property
    def alone_queue(self) -> str | None:
        """The queue of the message that runs alone; None while none does."""
        key = self.alone_key
        return next((held.queue for held in self.in_flight() if held.key == key), None) if key is not None else None

    # ---- the worker's side

    def is_started_elsewhere(self, key: int) -> bool:
        """Whether a process of another slot, alive or not yet reaped, has started the message with this key.

        Takes about 1 us for each worker, 50 us if that had 65,536 in flight, so ask for what is delivered again alone.
        """
        return any(other.words[Word.PID] and other.has_started(key) for other in self._board.used if other is not self)

    def write_state(self, state: WorkerState) -> None:
        """Tell what the worker does now."""
        self.words[Word.STATE] = state

    def beat(self, deadline_ns: int) -> None:
        """Promise to beat again before `deadline_ns`. Call from the event loop itself, never from a thread."""
        self.words[Word.DEADLINE_NS] = deadline_ns

    def write_note(self, text: str) -> None:
        """Leave `text` for the master to print; it is cut at 4096 bytes."""
        raw = text.encode("utf-8", "replace")[:NOTE_BYTES]
        self._view[_NOTE_AT : _NOTE_AT + len(raw)] = raw
        self.words[Word.NOTE_LENGTH] = len(raw)

    def name_handler(self, index: int, name: str, queue: str) -> None:
        """Enter a handler and its queue into the directory; from the 65th on they are shown as `other`."""
        if index < HANDLER_NAMES:
            self._write_text(name, _NAMES_AT + index * NAME_BYTES, NAME_BYTES)
            self._write_text(queue, _QUEUES_AT + index * QUEUE_BYTES, QUEUE_BYTES)

    def enter(self, handler: int, tag: int, attempt: int, message_id: bytes, started_ns: int, key: int = NO_KEY) -> int:
        """Record a delivery as started and return its place, or NO_ENTRY when all are taken. `key` is not 0."""
        free = self._free
        place = free.pop() if free else self._fresh_place()
        if place < IN_FLIGHT_ENTRIES:
            if place == NO_ENTRY:
                self.words[Word.UNPLACED] += 1
                return NO_ENTRY
            _ENTRY.pack_into(
                self._view,
                _ENTRIES_AT + place * _ENTRY_BYTES,
                handler if handler < HANDLER_NAMES else 255,
                len(message_id),  # as it is: the reader knows how much of it there is place for
                attempt,
                tag,
                started_ns,
                message_id,
            )
        self._keys[place] = key  # last: from now on it counts
        return place

    def _fresh_place(self) -> int:
        if self._used == len(self._keys):
            return NO_ENTRY
        self._used += 1
        self.words[Word.PLACES_USED] = self._used
        return self._used - 1

    def show_alone(self, key: int | None) -> None:
        """Tell that the suspect with `key` runs alone from now on, or with None that nothing does any more."""
        if key is not None:
            self.words[Word.ALONE_KEY] = key % _SIGN
        self.words[Word.IS_ALONE] = key is not None

    def leave(self, place: int) -> None:
        """Record that the delivery of `place`, as returned by `enter`, has finished."""
        if place == NO_ENTRY:
            self.words[Word.UNPLACED] -= 1
            return
        self._keys[place] = 0
        self._free.append(place)
