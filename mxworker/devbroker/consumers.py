"""The consumers of a queue, and which of them gets the next message.

Pure. A consumer that can take no more is passed over. Those of the highest priority take turns; lower ones get what
these cannot take. With a single active consumer the first to come gets everything until it leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Taker(Protocol):
    """A consumer, as far as the choice goes."""

    @property
    def can_take(self) -> bool:
        """Whether another delivery may be sent to it."""

    @property
    def priority(self) -> int:
        """The higher, the earlier."""

    @property
    def exclusive(self) -> bool:
        """Whether it wants to be alone."""


T = TypeVar("T", bound=Taker)


class Consumers(Generic[T]):
    """The consumers of one queue, in the order in which they came."""

    def __init__(self, single_active: bool) -> None:
        self._single_active = single_active
        self._all: list[T] = []
        self._levels: list[deque[T]] = []  # of one priority each, the highest first

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    @property
    def has_exclusive(self) -> bool:
        """Whether one of them wants to be alone."""
        return any(consumer.exclusive for consumer in self._all)

    def add(self, consumer: T) -> None:
        """Let a consumer take part."""
        self._all.append(consumer)
        self._sort()

    def remove(self, consumer: T) -> None:
        """Take a consumer away; one that is not there is no error."""
        if consumer in self._all:
            self._all.remove(consumer)
            self._sort()

    def next(self) -> T | None:
        """Return who gets the next message, None when nobody can take one; whoever is chosen goes to the end."""
        if self._single_active:
            first = self._all[0] if self._all else None
            return first if first is not None and first.can_take else None
        for level in self._levels:
            for _ in range(len(level)):
                consumer = level[0]
                level.rotate(-1)
                if consumer.can_take:
                    return consumer
        return None

    def _sort(self) -> None:
        levels: dict[int, deque[T]] = {}
        kept = [consumer for level in self._levels for consumer in level if consumer in self._all]
        for consumer in (*kept, *(new for new in self._all if new not in kept)):
            levels.setdefault(consumer.priority, deque()).append(consumer)
        self._levels = [levels[priority] for priority in sorted(levels, reverse=True)]
