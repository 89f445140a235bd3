"""A publisher under test in the test's own event loop, and the judgement over what it reported."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mxworker import Publisher
from mxworker.errors import (
    EncodeError,
    MessageTooLarge,
    PublishError,
    PublishNacked,
    PublishOverflow,
    PublishUnconfirmed,
    Unroutable,
)

REFUSED = (EncodeError, MessageTooLarge, PublishNacked, PublishOverflow, Unroutable)
LISTED = (*REFUSED, PublishUnconfirmed)


@dataclass
class Reported:
    """What the publisher said of each message, by the first word of its body, and how long it took for that."""

    confirmed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    async def publish(self, publisher: Publisher, body: str, routing_key: str, **options: Any) -> None:
        """Publish one message and note the outcome; anything but the listed outcomes is raised."""
        started_at = time.monotonic()
        try:
            await publisher.publish(body, routing_key=routing_key, **options)
        except PublishUnconfirmed as error:
            self._note(self.unknown, body, error)
        except REFUSED as error:
            self._note(self.refused, body, error)
        else:
            self._note(self.confirmed, body, None)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started_at)

    def _note(self, group: set[str], body: str, error: PublishError | None) -> None:
        group.add(body.partition(" ")[0])
        self.kinds["Confirmed" if error is None else type(error).__name__] += 1

    def check(self, drained: Iterable[str]) -> str:
        """Compare with what the queue held, and return a line of figures; AssertionError when something was a lie."""
        found = Counter(body.partition(" ")[0] for body in drained)
        lost = self.confirmed - found.keys()
        assert not lost, f"{len(lost)} confirmed messages are not in the queue: {sorted(lost)[:5]}"
        untrue = self.refused & found.keys()
        assert not untrue, f"{len(untrue)} refused messages are in the queue: {sorted(untrue)[:5]}"
        unheard = found.keys() - self.confirmed - self.unknown
        assert not unheard, f"{len(unheard)} messages in the queue were never published: {sorted(unheard)[:5]}"
        twice = sum(count - 1 for count in found.values())
        return f"{dict(self.kinds)}, {twice} duplicates, slowest {self.slowest_s:.2f} s"


async def publish_all(
    publisher: Publisher, bodies: Iterable[str], routing_key: str, at_once: int, **options: Any
) -> Reported:
    """Publish every body, `at_once` at a time."""
    reported = Reported()
    waiting = iter(bodies)

    async def work() -> None:
        for body in waiting:
            await reported.publish(publisher, body, routing_key, **options)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return reported
