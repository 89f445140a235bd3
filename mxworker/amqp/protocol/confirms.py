"""The confirm ledger of one channel: its unconfirmed publishes, and which of them a confirm or return concerns.

Sans-IO and pure. On a channel in confirm mode the broker counts publishes from 1 and confirms them by that number, one
by one, or with `multiple` all up to it (https://www.rabbitmq.com/docs/confirms#publisher-confirms). The broker returns
an unroutable message before it confirms that message. A return has no number, so it is matched by the message id.

Invariants:
- The tags equal the broker's numbers: there is one `add` for each publish that is written, in the order of writing.
- No two publishes in flight have the same message id, or a return could end the wrong one.
- Every publish leaves the ledger exactly once: settled, dropped, or at the end of the channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from mxworker.errors import InvariantError


class Confirmable(Protocol):
    """The fields of a publish that the ledger reads and writes."""

    message_id: bytes
    tag: int
    """The delivery tag of the last attempt."""
    return_reason: str | None
    """Why the broker returned the message, None until it does. The confirm follows the return."""


P = TypeVar("P", bound=Confirmable)


class ConfirmLedger(Generic[P]):
    """The unconfirmed publishes of one channel, bounded by the window of the publisher."""

    __slots__ = ("_by_id", "_by_tag", "_last", "_oldest")

    def __init__(self) -> None:
        self._by_tag: dict[int, P] = {}
        self._by_id: dict[bytes, P] = {}
        self._last = 0
        self._oldest = 1  # no tag below it is in flight

    def __len__(self) -> int:
        return len(self._by_tag)

    def has_id(self, message_id: bytes) -> bool:
        """Tell whether a publish with this message id is in flight."""
        return message_id in self._by_id

    def add(self, publishing: P) -> bool:
        """Record a publish that is written now. Return whether it is the only one in flight."""
        if publishing.message_id in self._by_id:
            raise InvariantError(f"the message id {publishing.message_id!r} is in flight already")
        self._last = publishing.tag = self._last + 1
        self._by_tag[self._last] = publishing
        self._by_id[publishing.message_id] = publishing
        return len(self._by_tag) == 1

    def settle(self, tag: int, multiple: bool) -> list[P]:
        """Remove and return the publishes that a confirm concerns, oldest first; none for a tag that is not in flight.

        With `multiple`, the tag 0 means all publishes so far (AMQP 0-9-1, basic.ack.multiple).
        """
        newest = min(tag or self._last, self._last)
        tags: Iterable[int] = (tag,)
        if multiple:
            tags = range(self._oldest, newest + 1)
            # Most tags of the range were confirmed one by one. The dict holds the others in the order of tags.
            if len(tags) > len(self._by_tag):
                tags = [number for number in self._by_tag if number <= newest]
        settled = []
        for number in tags:
            publishing = self._by_tag.pop(number, None)
            if publishing is not None:
                del self._by_id[publishing.message_id]
                settled.append(publishing)
        if multiple:
            self._oldest = max(self._oldest, newest + 1)
        return settled

    def returned(self, message_id: bytes, why: str) -> bool:
        """Mark the publish that the broker returned; return False when none with this id is in flight."""
        publishing = self._by_id.get(message_id)
        if publishing is None:
            return False
        publishing.return_reason = why
        return True

    def drop(self, publishing: P) -> None:
        """Remove a publish whose confirm nobody waits for any more."""
        if self._by_tag.get(publishing.tag) is publishing:
            del self._by_tag[publishing.tag]
            del self._by_id[publishing.message_id]

    def end(self) -> list[P]:
        """Remove and return all publishes in flight, oldest first, because the channel has ended."""
        rest = list(self._by_tag.values())
        self._by_tag.clear()
        self._by_id.clear()
        return rest
