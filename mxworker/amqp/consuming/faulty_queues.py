"""Which queue makes the broker end the whole connection, with all other queues on it.

Some requests are answered by connection.close, not by channel.close: a hard error (AMQP 0-9-1, 1.2.1), 501 to 541.
The queue over which that happens again and again must not have the messages of the others delivered again each time.

There are three cases. The broker names the queue in its text: that one is to blame. It names none, and one queue had a
request under way: that one is. It names none, and several had: nobody is, and for a minute they take turns, so that
the next time it is known.

Pure but for the lock of the turns. Belongs to one event loop, and to all consumers of one link.
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
    """What is known of the queues on one link."""

    def __init__(self) -> None:
        """Suspect nobody."""
        self._under_way: dict[str, object] = {}  # queue -> the connection on which it has a request under way
        self._suspects: frozenset[str] = frozenset()
        self._judged: object = None  # the connection whose end the suspects are for
        self._blamed_at: dict[str, float] = {}
        self._given_up_at: dict[str, float] = {}
        self._turns_until = 0.0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, now: float) -> AsyncIterator[None]:
        """Wait until nobody else opens a channel, if turns are taken now."""
        if now >= self._turns_until:
            yield
            return
        async with self._turn:
            yield

    def begin(self, queue: str, connection: object) -> None:
        """Note that a queue has a request under way. It stays so until `succeeded`, or the next one."""
        self._under_way[queue] = connection

    def succeeded(self, queue: str) -> None:
        """Note that it was answered."""
        self._under_way.pop(queue, None)

    def blame(self, queue: str, connection: object, close_reason: tuple[int, str], now: float) -> bool:
        """Take the end of a connection, and say whether a queue is to be given up for it.

        That is when it is to blame for the second time within a minute, or again after it was given up.
        """
        code, text = close_reason
        if code not in _HARD_ERRORS or not self._is_to_blame(queue, connection, text, now):
            return False
        before = self._blamed_at.get(queue)
        given_up_at = self._given_up_at.get(queue)
        self._blamed_at[queue] = now
        if (before is not None and now - before <= _AGAIN_S) or (
            given_up_at is not None and now - given_up_at <= GIVEN_UP_S + _AGAIN_S
        ):
            self._given_up_at[queue] = now
            return True
        return False

    def _is_to_blame(self, queue: str, connection: object, text: str, now: float) -> bool:
        named = _NAMED.search(text)
        if named is not None:
            beside = named["queue"].removeprefix(queue)
            return named["queue"] == queue or (beside != named["queue"] and _BESIDE.fullmatch(beside) is not None)
        if connection is not self._judged:
            self._judged = connection
            self._suspects = frozenset(name for name, where in self._under_way.items() if where is connection)
            if len(self._suspects) > 1:
                self._turns_until = now + _AGAIN_S
        return self._suspects == {queue}
