"""Which call of a test each result belongs to.

A call that delivers messages waits for the first result of each. All other results, such as those of retries and of
messages that handlers published, belong to the call that ends next, so that no failure goes unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mxworker.testing.results import Result

Key = tuple[str, str | None]
"""A queue, and the id of a message that is delivered from it."""


@dataclass(eq=False)
class Call:
    """A call that is under way, with the messages that it waits for and the results that they had."""

    name: str
    deadline: float
    timeout: float
    pending: list[Key] = field(default_factory=list)
    own: list[Result] = field(default_factory=list)


class Calls:
    """The calls that are under way, the oldest first, and the results that belong to none of them yet."""

    def __init__(self) -> None:
        self._open: list[Call] = []
        self._rest: list[Result] = []

    @contextmanager
    def opened(self, call: Call) -> Iterator[Call]:
        """Keep a call open inside the block."""
        self._open.append(call)
        try:
            yield call
        finally:
            self._open.remove(call)

    def note(self, result: Result) -> None:
        """Give a result to the first call that waits for it."""
        for call in self._open:
            if result.key in call.pending:
                call.pending.remove(result.key)
                call.own.append(result)
                return
        self._rest.append(result)

    def take_rest(self) -> list[Result]:
        """Return the results that belong to no call, once."""
        rest, self._rest = self._rest, []
        return rest

    def awaited_elsewhere(self, queue: str, call: Call | None, gathering: Collection[Key]) -> int:
        """Return how many messages of a queue other calls wait for, not counting those that are `gathering`."""
        pending = [key for other in self._open if other is not call for key in other.pending]
        return sum(key[0] == queue and key not in gathering for key in pending)
