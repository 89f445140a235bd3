"""The messages of a queue that wait for a consumer, in the order in which they will be delivered.

Pure. A returned message goes back to its old position. Quorum queues put it before all that were never delivered, in
the order of the returns, or last when they have no delivery limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mxworker.devbroker.message import Message


class Entry:
    """One message in one queue. `position` orders it; `returns` counts how often it came back."""

    __slots__ = ("expires_at_ms", "message", "position", "redelivered", "returns")

    def __init__(self, message: Message, position: int, expires_at_ms: float | None) -> None:
        self.message = message
        self.position = position
        self.expires_at_ms = expires_at_ms
        self.redelivered = False
        self.returns = 0


class Ready:
    """Lists of entries, one for each priority; the highest is taken first."""

    __slots__ = ("_lists", "_returned", "bytes", "count")

    def __init__(self, max_priority: int | None) -> None:
        self._lists: list[deque[Entry]] = [deque() for _ in range((max_priority or 0) + 1)]
        self._returned: deque[Entry] = deque()
        self.count = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in the order in which they will be taken."""
        for entries in (self._returned, *reversed(self._lists)):
            yield from entries

    def push(self, entry: Entry) -> None:
        """Add an entry behind those of its priority."""
        self._list_of(entry).append(entry)
        self.count += 1
        self.bytes += len(entry.message.body)

    def put_back(self, entry: Entry) -> None:
        """Add an entry at its old position."""
        entries = self._list_of(entry)
        if not entries or entry.position < entries[0].position:
            entries.appendleft(entry)
        else:
            at = next((at for at, other in enumerate(entries) if other.position > entry.position), len(entries))
            entries.insert(at, entry)
        self.count += 1
        self.bytes += len(entry.message.body)

    def put_first(self, entry: Entry) -> None:
        """Add an entry before all that were never delivered, behind those that were."""
        self._returned.append(entry)
        self.count += 1
        self.bytes += len(entry.message.body)

    def pop(self) -> Entry:
        """Take the next entry; IndexError when there is none."""
        entry = self._next_list().popleft()
        self.count -= 1
        self.bytes -= len(entry.message.body)
        return entry

    def expired(self, now_ms: float) -> list[Entry]:
        """Take the expired entries that no living one of their priority stands before, as RabbitMQ does."""
        found = []
        for entries in self._filled():
            while entries and (at_ms := entries[0].expires_at_ms) is not None and at_ms <= now_ms:
                found.append(entries.popleft())
        self.count -= len(found)
        self.bytes -= sum(len(entry.message.body) for entry in found)
        return found

    def next_expiry_ms(self) -> float | None:
        """Return when the next entry expires; None when none that stands first does."""
        return min((e[0].expires_at_ms for e in self._filled() if e[0].expires_at_ms is not None), default=None)

    def clear(self) -> int:
        """Drop all entries; return how many there were."""
        dropped = self.count
        for entries in (self._returned, *self._lists):
            entries.clear()
        self.count = self.bytes = 0
        return dropped

    def _filled(self) -> Iterator[deque[Entry]]:
        return (entries for entries in (self._returned, *self._lists) if entries)

    def _next_list(self) -> deque[Entry]:
        if self._returned:
            return self._returned
        for entries in reversed(self._lists):
            if entries:
                return entries
        raise IndexError("no message is ready")

    def _list_of(self, entry: Entry) -> deque[Entry]:
        lists = self._lists
        if len(lists) == 1:
            return lists[0]
        return lists[min(entry.message.read.priority or 0, len(lists) - 1)]
