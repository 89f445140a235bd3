"""Reading a slot of the board: its words, and the areas that belong to them.

A reader may find an entry or a note half written, when its writer was killed in the middle, and any bytes at all, since
its writer runs code of others. So no length, number or text is trusted: each is bounded, and made printable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mxworker.board.layout import (
    CLEARING_WORDS,
    CLEARINGS,
    CLEARINGS_AT,
    ENTRIES_AT,
    ENTRY,
    ENTRY_BYTES,
    HANDLER_NAMES,
    IN_FLIGHT_ENTRIES,
    KEYS_AT,
    MESSAGE_ID_BYTES,
    NAME_BYTES,
    NAMES_AT,
    NOTE_AT,
    NOTE_BYTES,
    QUEUE_BYTES,
    QUEUES_AT,
    SIGN,
    WORD_BYTES,
    Word,
)
from mxworker.board.lifecycle import Wish, WorkerState
from mxworker.system.printable import by_line, foreign

NO_KEY = 1
"""The key of a delivery that cannot become a suspect."""

_STATES = {int(state): state for state in WorkerState}
_WISHES = {int(wish): wish for wish in Wish}


@dataclass(frozen=True, slots=True)
class InFlight:
    """One started delivery, as it is on the board."""

    handler: str
    queue: str
    message_id: str
    delivery_tag: int
    attempt: int
    started_ns: int
    key: int = NO_KEY
    """See `message_keys`."""


class Told:
    """What a worker tells of itself in its slot."""

    def __init__(self, words: Sequence[int], view: memoryview) -> None:
        """Read `words`, which are those of the slot or a copy, and the other areas of the slot in `view`."""
        self.words = words
        self._view = view
        self._clearings = view[CLEARINGS_AT:NAMES_AT].cast("q")
        self._keys = view[KEYS_AT:].cast("q")

    @property
    def places(self) -> int:
        """How many places for deliveries in flight the slot has."""
        return len(self._keys)

    @property
    def state(self) -> WorkerState:
        """The state that the worker has written."""
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
    def ever_ready(self) -> bool:
        """Whether a worker of this slot, the present or a former one, ever consumed from all its queues."""
        return bool(self.words[Word.EVER_READY])

    @property
    def note(self) -> str:
        """The note that the master logs for the worker: why it cannot start, or what it consumes."""
        length = min(self.words[Word.NOTE_LENGTH], NOTE_BYTES)
        return by_line(bytes(self._view[NOTE_AT : NOTE_AT + length]).decode("utf-8", "replace"))

    # ---- deliveries in flight

    def in_flight(self) -> list[InFlight]:
        """Return the facts of at most 256 deliveries in flight, the oldest first."""
        found = []
        for place, key in enumerate(self._keys[: min(self.places_used, IN_FLIGHT_ENTRIES)]):
            if key:
                handler, id_length, attempt, tag, started_ns, raw = ENTRY.unpack_from(
                    self._view, ENTRIES_AT + place * ENTRY_BYTES
                )
                message_id = foreign(raw[: min(id_length, MESSAGE_ID_BYTES)].decode("utf-8", "backslashreplace"))
                names = (self._handler_name(handler), self._queue_name(handler))
                found.append(InFlight(*names, message_id, tag, attempt, started_ns, key))
        return sorted(found, key=lambda delivery: delivery.started_ns)

    def keys_in_flight(self) -> list[int]:
        """Return the keys of all deliveries in flight that have a place."""
        return [key for key in self._keys[: self.places_used].tolist() if key]

    @property
    def in_flight_count(self) -> int:
        """How many deliveries are in flight."""
        return self.places_used - self._keys[: self.places_used].tolist().count(0) + self.words[Word.UNPLACED]

    def has_started(self, key: int) -> bool:
        """Whether a delivery of the message with this key is in flight."""
        keys, wanted = bytes(self._keys[: self.places_used]), key.to_bytes(WORD_BYTES, "little", signed=True)
        at = keys.find(wanted)
        while at % WORD_BYTES and at != -1:  # these bytes lie across two keys
            at = keys.find(wanted, at + 1)
        return at != -1

    def queues_in_flight(self) -> Counter[str]:
        """Return how many deliveries are in flight of each queue that the board can name."""
        named = set(self.queues())
        return Counter(held.queue for held in self.in_flight() if held.queue in named)

    @property
    def places_used(self) -> int:
        """How many of the places were ever used, never more than there are."""
        return min(self.words[Word.PLACES_USED], len(self._keys))

    # ---- suspects

    @property
    def alone_key(self) -> int | None:
        """The key of the suspect that runs alone; None while none does."""
        if not self.words[Word.IS_ALONE]:
            return None
        key = self.words[Word.ALONE_KEY]
        return key - SIGN if key >= SIGN >> 1 else key

    @property
    def alone_queue(self) -> str | None:
        """The queue of the message that runs alone; None while none does."""
        key = self.alone_key
        return next((held.queue for held in self.in_flight() if held.key == key), None) if key is not None else None

    def clearings(self, after: int) -> list[tuple[int, int]]:
        """Return the requests to clear a suspect after the first `after`: keys, each with the number of a death.

        When there are more than 256 new requests, the oldest are lost, and their messages stay suspects.
        """
        count = self.words[Word.CLEARINGS]
        places = [number % CLEARINGS * CLEARING_WORDS for number in range(max(after, count - CLEARINGS), count)]
        return [(self._clearings[place], self._clearings[place + 1]) for place in places]

    # ---- the directory

    def consumes(self, queue: str) -> bool:
        """Whether a handler in the directory has this queue."""
        raw = queue.encode("utf-8", "replace")[:QUEUE_BYTES].ljust(QUEUE_BYTES, b"\0")
        names = bytes(self._view[QUEUES_AT:ENTRIES_AT])
        return bool(queue) and any(names[at : at + QUEUE_BYTES] == raw for at in range(0, len(names), QUEUE_BYTES))

    def queues(self) -> list[str]:
        """Return the queues of the handlers in the directory; empty before the worker has named them."""
        return [name for index in range(HANDLER_NAMES) if (name := self._queue_name(index))]

    def _handler_name(self, index: int) -> str:
        return foreign(self._text(NAMES_AT + index * NAME_BYTES, NAME_BYTES)) if index < HANDLER_NAMES else "other"

    def _queue_name(self, index: int) -> str:
        return self._text(QUEUES_AT + index * QUEUE_BYTES, QUEUE_BYTES) if index < HANDLER_NAMES else "other"

    def _text(self, at: int, size: int) -> str:
        return bytes(self._view[at : at + size]).partition(b"\0")[0].decode("utf-8", "replace")
