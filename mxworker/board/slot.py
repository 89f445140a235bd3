"""A slot of the board, as its worker writes it. Its fields are those of `layout`.

The worker's writes are plain stores, since every delivery makes some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mxworker.board.check import check
from mxworker.board.conditions import Conditions
from mxworker.board.layout import (
    CLEARING_WORDS,
    CLEARINGS,
    CLEARINGS_AT,
    CONDITIONS_AT,
    ENTRIES_AT,
    ENTRY,
    ENTRY_BYTES,
    HANDLER_NAMES,
    IN_FLIGHT_ENTRIES,
    KEYS_AT,
    NAME_BYTES,
    NAMES_AT,
    NOTE_AT,
    NOTE_BYTES,
    QUEUE_BYTES,
    QUEUES_AT,
    SIGN,
    WORD_BYTES,
    Given,
    Word,
)
from mxworker.board.lifecycle import Wish, WorkerState
from mxworker.board.metric_rows import MetricRows
from mxworker.board.reading import NO_KEY, Told
from mxworker.board.suspects import Suspects
from mxworker.system.child import ring

NO_ENTRY = -1
"""The place of a delivery that is counted, and for which the slot had no place."""
NOT_ENTERED = -2
"""The place of a delivery that is not on the board at all."""

_pack_entry = ENTRY.pack_into  # once: CPython looks up methods of imported names the slow way


class BoardSlot:
    """One worker's part of the board.

    `words` are the worker's, see `layout`, and `given` those of the master for this slot. `conditions` has what the
    worker tells of its connections and queues, and `rows` its metrics.
    """

    def __init__(
        self,
        number: int,
        view: memoryview,
        metrics: memoryview,
        given: memoryview,
        suspects: Suspects,
        secret: bytes,
        used: Callable[[], Iterator[BoardSlot]],
    ) -> None:
        """`view` is the slot up to its `metrics` area. `secret` is for the keys of messages.

        `used` returns all slots that ever had a process.
        """
        self.number = number
        self.suspects = suspects
        self.secret = secret
        self.given = given
        self._used_slots = used
        self.view = view
        self.metrics = metrics
        """The metrics area, see `metrics_layout`. `metrics.fold` reads it."""
        self.rows = MetricRows(metrics)
        self.words = view[:NOTE_AT].cast("Q")
        self.told = Told(self.words, view)
        self.conditions = Conditions(view[CONDITIONS_AT:ENTRIES_AT])
        self._clearings = view[CLEARINGS_AT:NAMES_AT].cast("q")
        self._keys = view[KEYS_AT:].cast("q")
        self._free: list[int] = []
        self._used = 0  # as the word says
        self._at_last_look: Sequence[int] | None = None

    # ---- the master's side

    def prepare(
        self, generation: int, is_on_trial: bool, boot_deadline_ns: int, kept: Sequence[int] | None = None
    ) -> None:
        """Make the slot ready for a new process. Call before the fork, after the former process was reaped.

        EVER_READY belongs to the slot and not to the process, so it stays: with its value in `kept`, or by default in
        the slot. The counters among the metrics stay, too.
        """
        latest = self.words.tolist() if kept is None else kept
        used = max(self.told.places_used, min(latest[Word.PLACES_USED], self.told.places))
        self.given[Given.GENERATION] = generation
        self.given[Given.SPAWNS] += 1
        self.given[Given.ON_TRIAL] = is_on_trial
        self.given[Given.ISOLATION_GRANTED] = 0
        self.given[Given.PROFILE_WANTED] = 0
        self.view[:NOTE_AT] = bytes(NOTE_AT)
        self.words[Word.EVER_READY] = latest[Word.EVER_READY]
        self.view[NAMES_AT:CONDITIONS_AT] = bytes(CONDITIONS_AT - NAMES_AT)
        self.conditions.clear()
        self.view[ENTRIES_AT:KEYS_AT] = bytes(KEYS_AT - ENTRIES_AT)
        self.view[KEYS_AT : KEYS_AT + used * WORD_BYTES] = bytes(used * WORD_BYTES)
        self.clear_gauges()
        self.words[Word.DEADLINE_NS] = boot_deadline_ns

    def clear_gauges(self) -> None:
        """Set the gauges among the metrics to 0. Call when the slot's process was reaped."""
        self.rows.clear_gauges()
        self.words[Word.RSS_BYTES] = 0

    # ---- the worker's side

    @property
    def deadline_ns(self) -> int:
        """The instant by which the worker promised to beat again."""
        return self.words[Word.DEADLINE_NS]

    @property
    def used(self) -> Iterator[BoardSlot]:
        """All slots that ever had a process, this one included."""
        return self._used_slots()

    @property
    def wish(self) -> Wish:
        """Why the worker wants to be replaced."""
        return self.told.wish

    @property
    def ever_ready(self) -> bool:
        """Whether a worker of this slot, the present or a former one, ever consumed from all its queues."""
        return self.told.ever_ready

    @property
    def is_on_trial(self) -> bool:
        """Whether the worker was started as a replacement: it must not wait for what only a human can change."""
        return bool(self.given[Given.ON_TRIAL])

    def look(self, latest_deadline_ns: int) -> str | None:
        """Return which word of this slot makes no sense, see `check`, or None. Takes about 10 us."""
        words = self.words.tolist()
        fault = check(words, self._at_last_look or words, self.told.places, latest_deadline_ns)
        if fault is None:
            self._at_last_look = words
        return fault

    def is_started_elsewhere(self, key: int) -> bool:
        """Whether a process of another slot, alive or not yet reaped, has started the message with this key.

        Takes about 1 us for each worker, 50 us for one with 65,536 deliveries in flight: ask only for a redelivery.
        """
        return any(
            other.words[Word.PID] and other.told.has_started(key) for other in self._used_slots() if other is not self
        )

    def write_state(self, state: WorkerState) -> None:
        """Write the state of the worker."""
        self.words[Word.STATE] = state

    def beat(self, deadline_ns: int) -> None:
        """Promise to beat again before `deadline_ns`. Call from the event loop itself, never from a thread."""
        self.words[Word.DEADLINE_NS] = deadline_ns

    def ring(self) -> None:
        """Wake the master up to look at the board. There is none when no master has prepared the slot, as in a test."""
        if self.given[Given.SPAWNS]:
            ring()

    def write_note(self, text: str) -> None:
        """Leave a note for the master to log; it is cut at 4096 bytes."""
        raw = text.encode("utf-8", "replace")[:NOTE_BYTES]
        self.view[NOTE_AT : NOTE_AT + len(raw)] = raw
        self.words[Word.NOTE_LENGTH] = len(raw)

    def name_handler(self, index: int, name: str, queue: str) -> None:
        """Enter a handler and its queue into the directory; from the 65th on they are shown as `other`."""
        if index < HANDLER_NAMES:
            self._write_text(name, NAMES_AT + index * NAME_BYTES, NAME_BYTES)
            self._write_text(queue, QUEUES_AT + index * QUEUE_BYTES, QUEUE_BYTES)

    def enter(self, handler: int, tag: int, attempt: int, message_id: bytes, started_ns: int, key: int = NO_KEY) -> int:
        """Record a delivery as started and return its place, or NO_ENTRY when all are taken. `key` is not 0."""
        free = self._free
        place = free.pop() if free else self._fresh_place()
        if place < IN_FLIGHT_ENTRIES:
            if place == NO_ENTRY:
                self.words[Word.UNPLACED] += 1
                return NO_ENTRY
            _pack_entry(
                self.view,
                ENTRIES_AT + place * ENTRY_BYTES,
                handler if handler < HANDLER_NAMES else 255,
                len(message_id),  # the reader cuts the id to the size of its field
                attempt,
                tag,
                started_ns,
                message_id,
            )
        self._keys[place] = key  # written last: from now on the delivery counts
        return place

    def _fresh_place(self) -> int:
        if self._used == len(self._keys):
            return NO_ENTRY
        self._used += 1
        self.words[Word.PLACES_USED] = self._used
        return self._used - 1

    def show_alone(self, key: int | None) -> None:
        """Show that the suspect with `key` runs alone from now on; with None, that no suspect does."""
        if key is not None:
            self.words[Word.ALONE_KEY] = key % SIGN
        self.words[Word.IS_ALONE] = key is not None

    def leave(self, *places: int) -> None:
        """Record that deliveries have finished; `places` are what `enter` returned for them."""
        keys, free = self._keys, self._free
        for place in places:
            if place >= 0:
                keys[place] = 0
                free.append(place)
            elif place == NO_ENTRY:
                self.words[Word.UNPLACED] -= 1

    def ask_to_clear(self, key: int, death: int) -> None:
        """Ask the master to clear a message that is a suspect because of this death."""
        count = self.words[Word.CLEARINGS]
        at = count % CLEARINGS * CLEARING_WORDS
        self._clearings[at] = key
        self._clearings[at + 1] = death
        self.words[Word.CLEARINGS] = count + 1

    def _write_text(self, text: str, at: int, size: int) -> None:
        self.view[at : at + size] = text.encode("utf-8", "replace")[:size].ljust(size, b"\0")
