"""Reading a slot of the board: its words, and the areas that belong to them.

A reader may find an entry or a note half written, when its writer was killed in the middle, and any bytes at all, since
its writer runs code of others. So no length, number or text is trusted: each is bounded, and made printable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mxworker.board import layout
from mxworker.board.conditions import LINKS, Condition, Conditions
from mxworker.board.layout import Word
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
        self._clearings = view[layout.CLEARINGS_AT : layout.NAMES_AT].cast("q")
        self._keys = view[layout.KEYS_AT :].cast("q")
        self._conditions = Conditions(view[layout.CONDITIONS_AT : layout.ENTRIES_AT])

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
        length = min(self.words[Word.NOTE_LENGTH], layout.NOTE_BYTES)
        return by_line(bytes(self._view[layout.NOTE_AT : layout.NOTE_AT + length]).decode("utf-8", "replace"))

    # ---- deliveries in flight

    def in_flight(self) -> list[InFlight]:
        """Return the facts of at most 256 deliveries in flight, the oldest first."""
        found = []
        for place, key in enumerate(self._keys[: min(self.places_used, layout.IN_FLIGHT_ENTRIES)]):
            if key:
                handler, id_length, attempt, tag, started_ns, raw = layout.ENTRY.unpack_from(
                    self._view, layout.ENTRIES_AT + place * layout.ENTRY_BYTES
                )
                message_id = foreign(raw[: min(id_length, layout.MESSAGE_ID_BYTES)].decode("utf-8", "backslashreplace"))
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
        keys, wanted = bytes(self._keys[: self.places_used]), key.to_bytes(layout.WORD_BYTES, "little", signed=True)
        at = keys.find(wanted)
        while at % layout.WORD_BYTES and at != -1:  # these bytes lie across two keys
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
        return key - layout.SIGN if key >= layout.SIGN >> 1 else key

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
        numbers = range(max(after, count - layout.CLEARINGS), count)
        places = [number % layout.CLEARINGS * layout.CLEARING_WORDS for number in numbers]
        return [(self._clearings[place], self._clearings[place + 1]) for place in places]

    # ---- the conditions

    def links(self) -> dict[str, Condition]:
        """Return the conditions of the connections, by role."""
        found = ((role, self._conditions.read(place)) for place, role in enumerate(LINKS))
        return {role: condition for role, condition in found if condition is not None}

    def queue_conditions(self) -> list[tuple[str, Condition]]:
        """Return the queues of the handlers in the directory whose condition is known, each with its condition."""
        found = ((name, self._conditions.read(len(LINKS) + index)) for index, name in self._named_queues())
        return [(name, condition) for name, condition in found if condition is not None]

    # ---- the directory

    def consumes(self, queue: str) -> bool:
        """Whether a handler in the directory has this queue."""
        size = layout.QUEUE_BYTES
        raw = queue.encode("utf-8", "replace")[:size].ljust(size, b"\0")
        names = bytes(self._view[layout.QUEUES_AT : layout.CONDITIONS_AT])
        return bool(queue) and any(names[at : at + size] == raw for at in range(0, len(names), size))

    def queues(self) -> list[str]:
        """Return the queues of the handlers in the directory; empty before the worker has named them."""
        return [name for _, name in self._named_queues()]

    def _named_queues(self) -> list[tuple[int, str]]:
        return [(index, name) for index in range(layout.HANDLER_NAMES) if (name := self._queue_name(index))]

    def _handler_name(self, index: int) -> str:
        return foreign(self._named(index, layout.NAMES_AT, layout.NAME_BYTES))

    def _queue_name(self, index: int) -> str:
        return self._named(index, layout.QUEUES_AT, layout.QUEUE_BYTES)

    def _named(self, index: int, area_at: int, size: int) -> str:
        if index >= layout.HANDLER_NAMES:
            return "other"
        at = area_at + index * size
        return bytes(self._view[at : at + size]).partition(b"\0")[0].decode("utf-8", "replace")
