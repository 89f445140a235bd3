"""The deliveries of a channel that are not settled yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mxworker.devbroker.faults import precondition_failed
from mxworker.devbroker.queues import Consumer, Queue
from mxworker.devbroker.ready import Entry


class Held(NamedTuple):
    """A delivery that a client holds; one of basic.get has no consumer."""

    tag: int
    entry: Entry
    queue: Queue
    consumer: Consumer | None


class Unacked:
    """What a channel holds, by delivery tag, in the order of the tags."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, tag: int, entry: Entry, queue: Queue, consumer: Consumer | None) -> None:
        """Note a delivery."""
        self._held[tag] = Held(tag, entry, queue, consumer)

    def take(self, tag: int, multiple: bool) -> list[Held]:
        """Take the deliveries that a settlement names; Fault 406 when the tag is not held. 0 with multiple is all."""
        if not multiple:
            if (one := self._held.pop(tag, None)) is None:
                raise precondition_failed(f"unknown delivery tag {tag}")
            return [one]
        if tag == 0:
            return self.take_all()
        if tag not in self._held:
            raise precondition_failed(f"unknown delivery tag {tag}")
        found = []
        for held in self._held.values():
            if held.tag > tag:
                break
            found.append(held)
        for held in found:
            del self._held[held.tag]
        return found

    def take_all(self) -> list[Held]:
        """Take all deliveries."""
        found = list(self._held.values())
        self._held = {}
        return found

    def restore(self, held: Iterable[Held]) -> None:
        """Take deliveries back that a transaction had settled and then was rolled back."""
        all_held = sorted((*self._held.values(), *held))
        self._held = {each.tag: each for each in all_held}


def by_queue(held: Iterable[Held]) -> dict[Queue, list[Entry]]:
    """Return the entries of each queue, in the order of the tags."""
    found: dict[Queue, list[Entry]] = {}
    for each in held:
        found.setdefault(each.queue, []).append(each.entry)
    return found
