"""Find the queue that makes the broker end the whole connection, with all other queues on it.

The broker answers some requests by connection.close instead of channel.close: a hard error (AMQP 0-9-1, 1.2.1), 501 to
541. A queue that causes this again and again would get the messages of all other queues redelivered each time.

There are three cases. If the broker names a queue in its text, that queue is the cause. If the broker names none, and
one queue had a request under way, that queue is the cause. If several had, the cause is unknown, and for a minute only
one queue at a time makes requests, so that the next time the cause is known.

Pure, except for a lock. Shared by all consumers of one link, in one event loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_HARD_ERRORS = range(501, 542)
_NAMED = re.compile(r"queue '(?P<queue>.*?)' in vhost")
_BESIDE = re.compile(r"\.dlq|\.quarantine|\.retry\.\d+")
_AGAIN_S = 60.0
GIVEN_UP_S = 300.0


class FaultyQueues:
    """What is known about the queues of one link."""

    def __init__(self) -> None:
        """Start without a suspect."""
        self._under_way: dict[str, object] = {}  # queue -> the connection on which it has a request under way
        self._suspects: frozenset[str] = frozenset()
        self._judged: object = None  # the connection to whose end the suspects belong
        self._caused_at: dict[str, float] = {}
        self._given_up_at: dict[str, float] = {}
        self._one_by_one_until = 0.0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, now: float) -> AsyncIterator[None]:
        """Wait until no other queue makes a request, if only one may at a time now."""
        if now >= self._one_by_one_until:
            yield
            return
        async with self._turn:
            yield

    def begin(self, queue: str, connection: object) -> None:
        """Record that a queue has a request under way, until `succeeded` or the next request."""
        self._under_way[queue] = connection

    def succeeded(self, queue: str) -> None:
        """Record that the request of a queue was answered."""
        self._under_way.pop(queue, None)

    def note_loss(self, queue: str, connection: object, close_reason: tuple[int, str], now: float) -> bool:
        """Record the end of a connection, and return whether to give `queue` up.

        A queue is given up when it was the cause twice within a minute, or again after it was given up.
        """
        code, text = close_reason
        if code not in _HARD_ERRORS or not self._is_cause(queue, connection, text, now):
            return False
        before = self._caused_at.get(queue)
        given_up_at = self._given_up_at.get(queue)
        self._caused_at[queue] = now
        if (before is not None and now - before <= _AGAIN_S) or (
            given_up_at is not None and now - given_up_at <= GIVEN_UP_S + _AGAIN_S
        ):
            self._given_up_at[queue] = now
            return True
        return False

    def _is_cause(self, queue: str, connection: object, text: str, now: float) -> bool:
        named = _NAMED.search(text)
        if named is not None:
            beside = named["queue"].removeprefix(queue)
            return named["queue"] == queue or (beside != named["queue"] and _BESIDE.fullmatch(beside) is not None)
        if connection is not self._judged:
            self._judged = connection
            self._suspects = frozenset(name for name, where in self._under_way.items() if where is connection)
            if len(self._suspects) > 1:
                self._one_by_one_until = now + _AGAIN_S
        return self._suspects == {queue}
