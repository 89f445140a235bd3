"""The messages that were started when a worker died: a table in the board, written by the master, read by workers.

A message that kills its process comes back, and would kill the next one, for ever. So all messages that a dead worker
had started are *suspects*. A suspect that is delivered again runs alone in its process (`worker.handling.isolation`).
That clears the innocent ones, and convicts the one that kills again. A message is known by its key, see `message_keys`.

Layout, all words of 8 bytes, signed:

    area        size          meaning
    ----        ----          -------
    head        8 words       deaths entered so far, entries ever used; the rest is spare
    entries     65536 x 10    one for each suspect, see the words below
    stacks      32 x 4096     number of the death, length, text: those of the last deaths

An entry is live while its death is not 0 and was not cleared. The master sets the death to 0 before it changes anything
else of an entry, and to its number afterwards, so a reader that finds the same number before and after has read one
state of the entry. The one worker that holds a message unacked asks the master to clear it, see
`BoardSlot.ask_to_clear`, and names the death for which it was a suspect: a message that has killed again stays one.

The table ends with the master, and loses its oldest entry when it is full; such a message has new tries. The table is
as large as the number of messages that one worker may have started. An entry that was never used takes no memory.

Pure, but for the memory it is given.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SUSPECTS = 65_536
STACKS = 32
STACK_BYTES = 4096 - 16

_WORD_BYTES = 8
_HEAD_WORDS = 8
_DEATHS, _USED = 0, 1
_ENTRY_WORDS = 10
_KEY, _KILLS, _WAS_ALONE, _STATUS, _PEAK_RSS_BYTES, _UPTIME_MS, _AT_S, _IS_HANG, _DEATH, _CLEARED = range(10)
_STACKS_AT = (_HEAD_WORDS + SUSPECTS * _ENTRY_WORDS) * _WORD_BYTES
_STACK_RECORD_BYTES = 4096
TABLE_BYTES = _STACKS_AT + STACKS * _STACK_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker died. `status` is an exit code or minus a signal number, `at_s` whole seconds since 1970.

    `peak_rss_bytes` is the most memory that it ever had, by the kernel's account; `stack` is its last stack, if any.
    `is_hang` says that the master ended it because it hung.
    """

    status: int
    peak_rss_bytes: int
    uptime_s: float
    at_s: int
    stack: str = ""
    is_hang: bool = False


@dataclass(frozen=True, slots=True)
class Suspect:
    """A message that was started when a worker died, as it is in the table.

    `kills` counts such deaths, and `last` is the newest of them; `was_alone` says whether nothing else ran then.
    `death` is its number.
    """

    kills: int
    was_alone: bool
    death: int
    last: Death

    def is_convicted(self, after_kills: int) -> bool:
        """Whether it is to be put into quarantine: it killed often enough, and the last time nobody else was there."""
        return self.kills >= after_kills and self.was_alone


class Suspects:
    """The table. Make it before the first fork; then all processes see what is entered later."""

    def __init__(self, view: memoryview) -> None:
        """Lay the table out in `view`, `TABLE_BYTES` of zeros."""
        self._words = view[:_STACKS_AT].cast("q")
        self._stacks = view[_STACKS_AT:TABLE_BYTES]
        self._places: OrderedDict[int, int] = (
            OrderedDict()
        )  # the master's: where the key's entry is, the oldest death first
        self._found: dict[int, int] = {}  # a worker's: the same, as of `_found_deaths`
        self._found_deaths = 0
        self._forgotten: dict[int, int] = {}  # a worker's: keys that it asked to clear, each with the number of a death

    @property
    def deaths(self) -> int:
        """How many deaths were entered so far. While it is 0 there is no suspect."""
        return self._words[_DEATHS]

    # ---- the master's side

    def enter(self, keys: Iterable[int], alone_key: int | None, death: Death) -> tuple[int, int]:
        """Enter the messages that a dead worker had started; `alone_key` is the key of the one that ran alone.

        Returns the number of these messages, and the number of them that were suspects before.
        """
        number = self.deaths + 1
        self._write_stack(number, death.stack)
        count = known = 0
        started = set(keys)
        is_tight = len(self._places) + len(started) > SUSPECTS
        cleared = iter([key for key, at in self._places.items() if not self._is_live(at)] if is_tight else ())
        for key in started:
            at = self._place(key, cleared)
            kills = self._words[at + _KILLS] if self._is_live(at) and self._words[at + _KEY] == key else 0
            self._write(at, number, (key, kills + 1, int(key == alone_key), *_facts(death)))
            count += 1
            known += kills > 0
        self._words[_DEATHS] = number
        return count, known

    def clear(self, key: int, death: int) -> None:
        """Clear a message that is a suspect because of this death. A later death keeps it a suspect."""
        at = self._places.get(key)
        if at is not None and self._words[at + _DEATH] == death:
            self._words[at + _CLEARED] = death

    def _place(self, key: int, cleared: Iterator[int]) -> int:
        """Return the place of the entry of `key`, and make it the newest. `cleared` are keys that may be replaced."""
        places = self._places
        at = places.pop(key, None)
        if at is None and len(places) < SUSPECTS:
            at = _HEAD_WORDS + len(places) * _ENTRY_WORDS
            self._words[_USED] = len(places) + 1
        elif at is None:
            at = places.pop(self._dispensable(cleared))
        places[key] = at
        return at

    def _dispensable(self, cleared: Iterator[int]) -> int:
        """Return a key that was cleared, or else the oldest."""
        still = (key for key in cleared if key in self._places and not self._is_live(self._places[key]))
        return next(still, next(iter(self._places)))

    def _write(self, at: int, number: int, values: tuple[int, ...]) -> None:
        words = self._words
        words[at + _DEATH] = 0
        for offset, value in enumerate(values):
            words[at + offset] = value
        words[at + _DEATH] = number

    def _write_stack(self, number: int, text: str) -> None:
        raw = text.encode("utf-8", "replace")[:STACK_BYTES]
        at = number % STACKS * _STACK_RECORD_BYTES
        record = self._stacks[at : at + _STACK_RECORD_BYTES]
        record[:8] = bytes(8)
        record[16 : 16 + len(raw)] = raw
        record[8:16] = len(raw).to_bytes(8, "little")
        record[:8] = number.to_bytes(8, "little")

    # ---- a worker's side

    def find(self, key: int) -> Suspect | None:
        """Return the suspect with this key, or None."""
        if self._found_deaths != self.deaths:
            self._found_deaths = self.deaths
            self._found = {self._words[at + _KEY]: at for at in self._entries() if self._is_live(at)}
            self._forgotten = {key: death for key, death in self._forgotten.items() if key in self._found}
        at = self._found.get(key)
        if at is None:
            return None
        words = self._words[at : at + _ENTRY_WORDS].tolist()
        is_torn = words[_DEATH] != self._words[at + _DEATH] or words[_KEY] != key
        if is_torn or words[_DEATH] in (0, words[_CLEARED], self._forgotten.get(key)):
            return None
        return _suspect(words)

    def forget(self, key: int, death: int) -> None:
        """Find a message no more because of this death, until the master has cleared it."""
        if key in self._found:
            self._forgotten[key] = death

    def stack(self, death: int) -> str:
        """Return the stack that a dead worker left; "" when it left none, or 32 workers have died since."""
        at = death % STACKS * _STACK_RECORD_BYTES
        record = bytes(self._stacks[at : at + _STACK_RECORD_BYTES])
        if int.from_bytes(record[:8], "little") != death:
            return ""
        length = min(int.from_bytes(record[8:16], "little"), STACK_BYTES)
        return record[16 : 16 + length].decode("utf-8", "replace")

    def _entries(self) -> Iterator[int]:
        used = min(self._words[_USED], SUSPECTS)
        return iter(range(_HEAD_WORDS, _HEAD_WORDS + used * _ENTRY_WORDS, _ENTRY_WORDS))

    def _is_live(self, at: int) -> bool:
        return self._words[at + _DEATH] not in (0, self._words[at + _CLEARED])


def _facts(death: Death) -> tuple[int, ...]:
    return death.status, death.peak_rss_bytes, round(death.uptime_s * 1000), death.at_s, int(death.is_hang)


def _suspect(words: list[int]) -> Suspect:
    uptime_s, is_hang = words[_UPTIME_MS] / 1000, bool(words[_IS_HANG])
    last = Death(words[_STATUS], words[_PEAK_RSS_BYTES], uptime_s, words[_AT_S], is_hang=is_hang)
    return Suspect(words[_KILLS], bool(words[_WAS_ALONE]), words[_DEATH], last)
