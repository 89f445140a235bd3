"""The board's record of one handler's messages: which were started, and which are suspects.

A message is on record from its start until its settlement was sent, also while a copy of it is being published. If the
process ends meanwhile, its messages are suspects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto

from mxworker.api.attempts import attempt_of
from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery, source_of
from mxworker.board.metrics_layout import Outcome
from mxworker.board.slot import NOT_ENTERED, BoardSlot
from mxworker.board.suspects import Suspect
from mxworker.config.bounds import DEFAULT_QUARANTINE_AFTER
from mxworker.wire.message_keys import MessageKeys
from mxworker.wire.properties import message_id_bytes
from mxworker.worker.handling.unsent import Unsent


class Standing(Enum):
    """The suspicion against a message."""

    INNOCENT = auto()
    DOUBTFUL = auto()
    """Another process started it. That process has lost its channel, or has died and the master has not seen it yet."""
    SUSPECT = auto()
    CONVICTED = auto()


class Record:
    """The board's record of one handler's messages."""

    def __init__(
        self,
        handler: Handler,
        index: int,
        slot: BoardSlot,
        loop: asyncio.AbstractEventLoop,
        quarantine_after: int = DEFAULT_QUARANTINE_AFTER,
    ) -> None:
        """`index` is the handler's place in the board's directory."""
        unsent = Unsent(slot, loop)
        self.leave, self._leave_all = unsent.leave, unsent.leave_all
        self._slot = slot
        self._index = index
        self._outcomes = slot.rows.consumer(handler.queue.name, handler.name).words
        self._keys = MessageKeys(slot.secret, handler.queue.name)
        self._max_attempts = handler.max_attempts
        self._suspects = slot.suspects
        self._quarantine_after = quarantine_after

    def enter(self, delivery: Delivery, started_at: float) -> int:
        """Record a delivery as started at a monotonic time in seconds. Pass the entry to `leave` when it is settled."""
        message_id = message_id_bytes(delivery.raw_properties)
        attempt = attempt_of(delivery, self._max_attempts)
        key = self._keys.key(delivery.raw_properties, delivery.raw_route, delivery.body)
        return self._slot.enter(self._index, delivery.delivery_tag, attempt, message_id, int(started_at * 1e9), key)

    @contextmanager
    def entered(self, deliveries: Sequence[Delivery]) -> Iterator[dict[Delivery, int]]:
        """Keep deliveries on record inside the block, which gets their entries. Entries that it removes have left.

        A delivery that cannot be put on record, because of a bug of ours, is handled all the same.
        """
        entries = dict.fromkeys(deliveries, NOT_ENTERED)
        now = time.monotonic()
        try:
            for delivery in deliveries:
                try:
                    entries[delivery] = self.enter(delivery, now)
                except Exception:  # noqa: S112 - a bug of ours, which must not stop the batch
                    continue
            yield entries
        finally:
            self._leave_all(entries.values())

    def give_back(self, delivery: Delivery) -> None:
        """Settle a delivery as not processed, and count it when it was stale."""
        if not source_of(delivery).give_back(delivery):
            self._outcomes[Outcome.STALE] += 1

    # ---- suspects

    def key(self, delivery: Delivery) -> int:
        """Return the key of a message."""
        return self._keys.key(delivery.raw_properties, delivery.raw_route, delivery.body)

    def standing(self, delivery: Delivery) -> Standing:
        """Return the suspicion against a message that the broker redelivers."""
        if not self._quarantine_after:
            return Standing.INNOCENT
        key = self.key(delivery)
        suspect = self._suspects.find(key)
        if suspect is not None:
            return Standing.CONVICTED if suspect.is_convicted(self._quarantine_after) else Standing.SUSPECT
        return Standing.DOUBTFUL if self._slot.is_started_elsewhere(key) else Standing.INNOCENT

    def is_suspect(self, delivery: Delivery) -> bool:
        """Whether a message is a suspect."""
        return self._suspects.find(self.key(delivery)) is not None

    def conviction(self, delivery: Delivery) -> Suspect | None:
        """Return the suspect that a message is, if it has killed enough workers for the quarantine; otherwise None."""
        if not delivery.redelivered or not self._suspects.deaths:
            return None
        suspect = self._suspects.find(self.key(delivery))
        return suspect if suspect is not None and suspect.is_convicted(self._quarantine_after) else None

    def stack_of(self, convict: Suspect) -> str:
        """Return the stack that the last worker that it killed has left."""
        return self._suspects.stack(convict.death)

    def clear(self, delivery: Delivery) -> None:
        """Clear a message of suspicion, since it has ended and this process lives. Does nothing when it is stale."""
        if delivery.is_stale:
            return
        key = self.key(delivery)
        suspect = self._suspects.find(key)
        if suspect is not None:
            self._suspects.forget(key, suspect.death)
            self._slot.ask_to_clear(key, suspect.death)
            self._slot.ring()
