"""The layout of a slot of the board, and of the words that the master has for each slot.

Only the slot's worker writes these fields while it lives; the master writes them before the fork, see `page`:

    field          size          meaning
    -----          ----          -------
    words          64 x 8        see `Word`: state, heartbeat deadline and more; the rest is spare, and 0
    note           4096          UTF-8: the note that the master logs for the worker
    clearings      256 x 16      a ring of requests to clear a suspect: its key, and the number of a death
    directory      64 x 64       names of its handlers
    queues         64 x 256      names of their queues, at the same places
    conditions     66 x 512      whether its connections are up and its queues consumed, see `conditions`
    in-flight      256 x 128     the facts of a started delivery
    keys           65536 x 8     see `message_keys`, of each started delivery
    metrics        see `metrics_layout`

A started delivery has a place among the keys until it has finished, so each key that is not 0 is a delivery in flight.
Deliveries in flight are counted, and are suspects when the process dies. Those in the first 256 places have their facts
at the same place of the in-flight area. From the 65th slot on a slot has 4096 places. A page of memory that was never
written takes no memory, and `Word.PLACES_USED` says how many places were.
"""

from __future__ import annotations

import struct
from enum import IntEnum, auto

from mxworker.board.metrics_layout import METRICS_BYTES

NOTE_BYTES = 4096
CLEARINGS = 256
"""How many requests to clear a suspect the ring holds; the master takes them whenever it looks."""
HANDLER_NAMES = 64
NAME_BYTES = 64
QUEUE_BYTES = 256  # a queue's name has at most 255 bytes: it is a short string of AMQP
CONDITIONS = 2 + HANDLER_NAMES  # one for each of two connections, and of the handlers
CONDITION_BYTES = 512
IN_FLIGHT_ENTRIES = 256
PLACES = 65_536
"""How many deliveries in flight a slot has places for: as many as the largest prefetch lets there be of one queue."""
FEWER_PLACES = 4096
SLOTS_WITH_ALL_PLACES = 64  # with all places, 513 slots would map 580 MB, which a small machine may refuse
MESSAGE_ID_BYTES = 96
PROFILE_BYTES = 64 * 1024 * 1024
"""The most that the result of a profile may have."""

WORD_BYTES = 8
WORDS = 64
ENTRY = struct.Struct(f"<BxHIQQ{MESSAGE_ID_BYTES}s")
ENTRY_BYTES = 128
CLEARING_WORDS = 2
NOTE_AT = WORDS * WORD_BYTES
CLEARINGS_AT = NOTE_AT + NOTE_BYTES
NAMES_AT = CLEARINGS_AT + CLEARINGS * CLEARING_WORDS * WORD_BYTES
QUEUES_AT = NAMES_AT + HANDLER_NAMES * NAME_BYTES
CONDITIONS_AT = QUEUES_AT + HANDLER_NAMES * QUEUE_BYTES
ENTRIES_AT = CONDITIONS_AT + CONDITIONS * CONDITION_BYTES
KEYS_AT = ENTRIES_AT + IN_FLIGHT_ENTRIES * ENTRY_BYTES

SIGN = 1 << 64  # added to a negative number of 64 bits when it is read as unsigned


class Word(IntEnum):
    """The words of a slot. The worker writes them; before it is forked, the master does."""

    PID = 0
    STATE = auto()
    WISH = auto()
    IS_BURST_OVER = auto()
    """Whether the worker leaves because it found its queues empty in a burst, and not because it was told to."""
    RSS_BYTES = auto()
    EVER_READY = auto()
    NOTE_LENGTH = auto()
    ISOLATION_WANTED = auto()
    """The number of a request to run a suspect alone, from 1; 0 while there is none."""
    IS_ALONE = auto()
    """Whether a suspect runs alone now; then `ALONE_KEY` is its key, as 64 unsigned bits."""
    ALONE_KEY = auto()

    PLACES_USED = auto()
    """How many of the places for deliveries in flight were ever used; readers skip the others."""
    UNPLACED = auto()
    """How many deliveries in flight have no place."""
    CLEARINGS = auto()
    """How many requests to clear a suspect this process has written; the last ones are in the ring."""

    PROFILE_BEGUN = auto()
    """The number of the last profile that the worker has begun; see `Given.PROFILE_WANTED`."""
    PROFILE_ENDED = auto()
    """The number of the last profile whose result is complete; then the next two words are about this result."""
    PROFILE_SIZE = auto()
    PROFILE_FAILED = auto()
    """Whether the result is the text of an error."""

    DEADLINE_NS = auto()
    """Heartbeat deadline: the master writes the boot deadline before the fork, then only the worker writes it."""


class Given(IntEnum):
    """The words that the master has for each slot, in its own section."""

    GENERATION = 0
    SPAWNS = auto()
    ON_TRIAL = auto()
    ISOLATION_GRANTED = auto()
    """The request to run a suspect alone that the master granted; see `Word.ISOLATION_WANTED`."""
    PROFILE_WANTED = auto()
    """The number of the profile that the worker shall take, from 1; 0 for none. Written after the next three words."""
    PROFILE_KIND = auto()
    PROFILE_MS = auto()
    PROFILE_FD = auto()
    """The descriptor, which the worker has inherited, of the file for the result."""


class ProfileKind(IntEnum):
    """What a profile is about."""

    CPU = 1
    MEMORY = 2


GIVEN_WORDS = 16


def places_of(slot: int) -> int:
    """Return how many places for deliveries in flight slot number `slot` has."""
    return PLACES if slot <= SLOTS_WITH_ALL_PLACES else FEWER_PLACES


def slot_bytes(slot: int) -> int:
    """Return the size of slot number `slot`."""
    return metrics_at(slot) + METRICS_BYTES


def metrics_at(slot: int) -> int:
    """Return where the metrics area of slot number `slot` begins."""
    return KEYS_AT + places_of(slot) * WORD_BYTES
