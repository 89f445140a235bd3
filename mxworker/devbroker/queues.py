"""A queue and its consumers: what it holds, what it gives up, and whom it serves.

Pure: the time is an argument, and what a queue gives up is returned for somebody else to dead-letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mxworker.devbroker.arguments import DROP_HEAD, QUORUM, QueueSettings
from mxworker.devbroker.consumers import Consumers
from mxworker.devbroker.frames import deliver_prefix
from mxworker.devbroker.message import Message
from mxworker.devbroker.ready import Entry, Ready


@dataclass(frozen=True)
class Declared:
    """The properties that a queue was declared with. `owner` is the connection of an exclusive queue."""

    durable: bool
    auto_delete: bool
    owner: object | None
    arguments: Mapping[str, Any]


class Receiver(Protocol):
    """The channel of a consumer."""

    @property
    def is_open_for_deliveries(self) -> bool:
        """Whether its limit and its connection let another delivery through."""

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """Send the message to the client."""

    def consumer_cancelled(self, consumer: Consumer) -> None:
        """Tell the client that the queue has gone."""


class Consumer:
    """One subscription. `prefetch` 0 is no limit; `unacked` counts what it holds."""

    __slots__ = (
        "arguments",
        "exclusive",
        "no_ack",
        "prefetch",
        "prefix",
        "priority",
        "queue",
        "receiver",
        "tag",
        "unacked",
    )

    def __init__(
        self,
        receiver: Receiver,
        queue: Queue,
        tag: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        prefetch: int = 0,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.receiver = receiver
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch = prefetch
        self.arguments = arguments or {}
        priority = self.arguments.get("x-priority", 0)
        self.priority: int = priority if isinstance(priority, int) else 0
        self.unacked = 0
        self.prefix = deliver_prefix(tag)

    @property
    def can_take(self) -> bool:
        """Whether another delivery may be sent to it."""
        if self.no_ack:
            return self.receiver.is_open_for_deliveries
        return (not self.prefetch or self.unacked < self.prefetch) and self.receiver.is_open_for_deliveries


class Queue:
    """A queue of a virtual host. `unacked` counts what channels hold of it."""

    def __init__(self, name: str, declared: Declared, settings: QueueSettings) -> None:
        self.name = name
        self.declared = declared
        self.settings = settings
        self.ready = Ready(settings.max_priority)
        self.consumers: Consumers[Consumer] = Consumers(settings.single_active)
        self.unacked = 0
        self.is_deleted = False
        self.has_ttl = settings.ttl_ms is not None  # or a message had one
        self.is_limited = settings.max_length is not None or settings.max_bytes is not None
        self._last_position = 0

    @property
    def is_quorum(self) -> bool:
        """Whether it counts deliveries, as quorum queues do."""
        return self.settings.kind == QUORUM

    def refuses(self, message: Message) -> bool:
        """Tell whether a publish is to be refused because the queue is full."""
        if not self.is_limited or self.settings.overflow == DROP_HEAD:
            return False
        if self.is_quorum:  # it refuses once it is above its limit, so it takes one more
            return self._is_above(self.ready.count, self.ready.bytes)
        return self._is_above(self.ready.count + 1, self.ready.bytes + len(message.body))

    def push(self, message: Message, now_ms: float) -> None:
        """Deliver a message at once, or keep it."""
        self._last_position += 1
        entry = Entry(message, self._last_position, self._expiry_ms(message, now_ms))
        if not self.ready.count and (consumer := self.consumers.next()) is not None:
            self._deliver(consumer, entry)
        else:
            self.ready.push(entry)

    def serve(self, now_ms: float) -> list[Entry]:
        """Deliver what is ready to those who can take it; return what has expired before it could be delivered."""
        ready = self.ready
        expired = ready.expired(now_ms) if self.has_ttl else []
        while ready.count and (consumer := self.consumers.next()) is not None:
            self._deliver(consumer, ready.pop())
            if self.has_ttl:
                expired += ready.expired(now_ms)
        return expired

    def surplus(self) -> list[Entry]:
        """Take from the head what is above the length limits; a queue that refuses publishes has no surplus."""
        found: list[Entry] = []
        if self.settings.overflow == DROP_HEAD:
            while self.ready.count and self._is_above(self.ready.count, self.ready.bytes):
                found.append(self.ready.pop())
        return found

    def take(self) -> Entry | None:
        """Take the next message for a basic.get; None when nothing is ready."""
        return self.ready.pop() if self.ready.count else None

    def give_back(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take unacked entries back, in their order; return those that came back too often."""
        given_up = []
        for entry in sorted(entries, key=lambda entry: entry.position, reverse=True) if not self.is_quorum else entries:
            entry.redelivered = True
            entry.returns += 1
            if not self.is_quorum:
                self.ready.put_back(entry)
            elif self.settings.delivery_limit is None:
                self._last_position += 1
                entry.position = self._last_position
                self.ready.push(entry)
            elif entry.returns > self.settings.delivery_limit:
                given_up.append(entry)
            else:
                self.ready.put_first(entry)
        return given_up

    def _deliver(self, consumer: Consumer, entry: Entry) -> None:
        if not consumer.no_ack:
            self.unacked += 1
        consumer.receiver.deliver(consumer, entry)

    def _is_above(self, count: int, size_bytes: int) -> bool:
        most, most_bytes = self.settings.max_length, self.settings.max_bytes
        return (most is not None and count > most) or (most_bytes is not None and size_bytes > most_bytes)

    def _expiry_ms(self, message: Message, now_ms: float) -> float | None:
        own_ms, queue_ms = message.ttl_ms, self.settings.ttl_ms
        if own_ms is None and queue_ms is None:
            return None
        self.has_ttl = True
        return now_ms + min(ttl_ms for ttl_ms in (own_ms, queue_ms) if ttl_ms is not None)
