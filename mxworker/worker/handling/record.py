"""What the board knows of one handler's messages: which were started, and which are suspect.

A message is on record from its start until it is settled, also while a copy of it is on its way: whatever ends the
process meanwhile, its messages are suspect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto

from mxworker.api.attempts import attempt_of
from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery, source_of
from mxworker.board.layout import Word
from mxworker.board.slot import NOT_ENTERED, BoardSlot
from mxworker.board.suspects import Suspect
from mxworker.config import DEFAULT_QUARANTINE_AFTER
from mxworker.system.child import ring
from mxworker.wire.message_keys import MessageKeys
from mxworker.wire.properties import message_id_bytes


class Standing(Enum):
    """What is known against a message."""

    INNOCENT = auto()
    DOUBTFUL = auto()
    """Another process has started it. Either that has lost its channel, or it has died and the master does not know."""
    SUSPECT = auto()
    CONVICTED = auto()


class Record:
    """What the board knows of one handler's messages: which were started, and which are suspect."""

    def __init__(
        self,
        handler: Handler,
        index: int,
        slot: BoardSlot,
        quarantine_after: int = DEFAULT_QUARANTINE_AFTER,
        call_master: Callable[[], None] = ring,
    ) -> None:
        """`index` is the handler's place in the board's directory; `call_master` makes the master look at the board."""
        self.words = slot.words
        self.leave = slot.leave
        self._slot = slot
        self._index = index
        self._keys = MessageKeys(slot.secret, handler.queue.name)
        self._max_attempts = handler.max_attempts
        self._suspects = slot.suspects
        self._quarantine_after = quarantine_after
        self._call_master = call_master

    def enter(self, delivery: Delivery) -> int:
        """Record a delivery as started; the entry is for `leave`."""
        message_id = message_id_bytes(delivery.raw_properties)
        attempt = attempt_of(delivery, self._max_attempts)
        key = self._keys.key(delivery.raw_properties, delivery.raw_route, delivery.body)
        return self._slot.enter(self._index, delivery.delivery_tag, attempt, message_id, time.monotonic_ns(), key)

    @contextmanager
    def entered(self, deliveries: Sequence[Delivery]) -> Iterator[dict[Delivery, int]]:
        """Keep deliveries on record inside the block, which gets their entries; one that it takes out has left already.

        A delivery that cannot be put on record, by a fault of ours, is handled all the same.
        """
        entries = dict.fromkeys(deliveries, NOT_ENTERED)
        try:
            for delivery in deliveries:
                try:
                    entries[delivery] = self.enter(delivery)
                except Exception:  # noqa: S112 - a fault of ours, which must not keep the batch from being handled
                    continue
            yield entries
        finally:
            for entry in entries.values():
                self.leave(entry)

    def give_back(self, delivery: Delivery) -> None:
        """Settle a delivery as not processed, and count it when it was stale."""
        if not source_of(delivery).give_back(delivery):
            self.words[Word.STALE] += 1

    # ---- suspects

    def key(self, delivery: Delivery) -> int:
        """Return the key of a message."""
        return self._keys.key(delivery.raw_properties, delivery.raw_route, delivery.body)

    def standing(self, delivery: Delivery) -> Standing:
        """Say what is known against a message that the broker delivers again."""
        if not self._quarantine_after:
            return Standing.INNOCENT
        key = self.key(delivery)
        suspect = self._suspects.find(key)
        if suspect is not None:
            return Standing.CONVICTED if suspect.is_convicted(self._quarantine_after) else Standing.SUSPECT
        return Standing.DOUBTFUL if self._slot.is_started_elsewhere(key) else Standing.INNOCENT

    def is_suspect(self, delivery: Delivery) -> bool:
        """Whether something is known against a message."""
        return self._suspects.find(self.key(delivery)) is not None

    def conviction(self, delivery: Delivery) -> Suspect | None:
        """Return what is known against a message, if that is enough for the quarantine."""
        if not delivery.redelivered or not self._suspects.deaths:
            return None
        suspect = self._suspects.find(self.key(delivery))
        return suspect if suspect is not None and suspect.is_convicted(self._quarantine_after) else None

    def stack_of(self, convict: Suspect) -> str:
        """Return what the last worker that it killed said of itself."""
        return self._suspects.stack(convict.death)

    def clear(self, delivery: Delivery) -> None:
        """Hold a message above suspicion, for it came to its end and this process lives; unless it is stale by now."""
        if delivery.is_stale:
            return
        key = self.key(delivery)
        suspect = self._suspects.find(key)
        if suspect is not None:
            self._suspects.forget(key, suspect.death)
            self._slot.ask_to_clear(key, suspect.death)
            self._call_master()
