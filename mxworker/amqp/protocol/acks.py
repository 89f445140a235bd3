"""The ack ledger of one channel: its unsettled deliveries, and the fewest frames that settle the finished ones.

Sans-IO and pure. Handlers finish in any order. The ledger collects their settlements, and `flush` returns the frames
once per loop turn: first rejects and nacks, then one basic.ack(multiple) for the finished contiguous prefix, then
single acks. The order matters: a multiple ack also covers tags that a later reject would name, and a reject of a
settled tag is a 406 that ends the channel (https://www.rabbitmq.com/docs/confirms#consumer-acks-double-acking).

Invariants:
- Every tag is settled at most once; a second settlement raises InvariantError before anything is written.
- The tag of a multiple ack is one that the same flush acks, so the broker never gets a tag that is settled already.
- A finished delivery never waits for an unfinished one, because that would stall the prefetch window.
"""

from __future__ import annotations

from mxworker.amqp.protocol.frames import encode_ack, encode_give_back, encode_reject
from mxworker.errors import InvariantError


class AckLedger:
    """The unsettled deliveries of one channel: at most `prefetch`, because the broker sends no more."""

    __slots__ = ("_acked", "_channel", "_negative", "_oldest", "_unsettled")

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._unsettled: dict[int, int] = {}  # delivery tag -> the bytes that the delivery holds
        self._acked: list[int] = []
        self._negative: list[bytes] = []
        self._oldest = 1  # no unsettled tag is below it; tags count up from 1 on each channel

    @property
    def unsettled(self) -> int:
        """How many deliveries are unsettled. A delivery that waits only for the flush counts as settled."""
        return len(self._unsettled)

    def deliver(self, tag: int, size_bytes: int = 0) -> None:
        """Record the delivery `tag`, which holds `size_bytes` until it is settled."""
        self._unsettled[tag] = size_bytes

    def deliver_all(self, sizes_bytes: dict[int, int]) -> None:
        """Record deliveries by their tags, with the bytes that each holds."""
        self._unsettled |= sizes_bytes

    def holds(self, tag: int) -> bool:
        """Tell whether `tag` is unsettled."""
        return tag in self._unsettled

    def ack(self, tag: int) -> int:
        """Settle `tag` as processed. Like every settlement, return the bytes that the delivery held."""
        try:
            size_bytes = self._unsettled.pop(tag)
        except KeyError:
            raise self._settled_twice(tag) from None
        self._acked.append(tag)
        return size_bytes

    def reject(self, tag: int, requeue: bool) -> int:
        """Settle `tag` as failed: the message goes to the dead-letter exchange, or with `requeue` back to the queue."""
        size_bytes = self._settle(tag)
        self._negative.append(encode_reject(self._channel, tag, requeue))
        return size_bytes

    def give_back(self, tag: int) -> int:
        """Settle `tag` as not processed: the message goes back to the queue."""
        size_bytes = self._settle(tag)
        self._negative.append(encode_give_back(self._channel, tag))
        return size_bytes

    def drop(self, tag: int) -> int:
        """Settle `tag` on a channel that has ended, without a frame."""
        return self._settle(tag)

    def flush(self) -> bytes:
        """Return the frames for all settlements since the last flush, b"" when there were none."""
        frames = self._negative
        self._negative = []
        if self._acked:
            frames += self._ack_frames(self._acked)
            self._acked = []
        return b"".join(frames)

    def _settle(self, tag: int) -> int:
        try:
            return self._unsettled.pop(tag)
        except KeyError:
            raise self._settled_twice(tag) from None

    def _settled_twice(self, tag: int) -> InvariantError:
        return InvariantError(f"delivery {tag} on channel {self._channel} is settled already")

    def _ack_frames(self, acked: list[int]) -> list[bytes]:
        newest = max(acked)
        limit = self._first_unsettled(newest)
        if newest < limit:
            return [encode_ack(self._channel, newest, multiple=len(acked) > 1)]
        prefix = [tag for tag in acked if tag < limit]
        frames = []
        if prefix:
            frames.append(encode_ack(self._channel, max(prefix), multiple=len(prefix) > 1))
        if len(prefix) < len(acked):
            frames += [encode_ack(self._channel, tag, multiple=False) for tag in acked if tag > limit]
        return frames

    def _first_unsettled(self, newest: int) -> int:
        """Return the lowest unsettled tag, or `newest` + 1. Each tag is skipped only once in a channel's life."""
        oldest = self._oldest
        unsettled = self._unsettled
        while oldest <= newest and oldest not in unsettled:
            oldest += 1
        self._oldest = oldest
        return oldest
