"""A virtual host at work: messages go into queues, out to consumers, and on to dead-letter exchanges; queues expire.

It has no sockets: consumers and the clock call what they were given. Dead letters are put on a list and published one
after another, so a chain of queues may have any length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mxworker.devbroker.clock import Clock, Timer
from mxworker.devbroker.dead_letters import DELIVERY_LIMIT, EXPIRED, REJECTED, TOO_LONG, dead_lettered, is_cycle
from mxworker.devbroker.message import Death, Message
from mxworker.devbroker.queues import Consumer, Declared, Queue
from mxworker.devbroker.ready import Entry
from mxworker.devbroker.topology import Topology


class ReplyReceiver(Protocol):
    """A channel that takes direct replies (https://www.rabbitmq.com/docs/direct-reply-to)."""

    def deliver_reply(self, message: Message) -> None:
        """Send the reply to the client."""


class VirtualHost:
    """A namespace of exchanges and queues, with the messages in them. `wall_s` tells the date of a death."""

    def __init__(self, name: str, clock: Clock, wall_s: float, default_delivery_limit: int | None) -> None:
        self.name = name
        self.topology = Topology(name, default_delivery_limit)
        self.reply_receivers: dict[str, ReplyReceiver] = {}
        self._clock = clock
        self._wall_ms_at_zero = wall_s * 1000 - clock.now_ms
        self._expiries: dict[Queue, Timer] = {}
        self._ends: dict[Queue, Timer] = {}
        self._given_up: deque[tuple[Queue, Entry, str]] = deque()
        self._is_dead_lettering = False

    def deliver(self, message: Message, queues: Iterable[Queue]) -> bool:
        """Put a message into queues; return False when one of them refuses it because it is full."""
        accepted = True
        for queue in queues:
            accepted &= self._enqueue(queue, message)
        return accepted

    def declare_queue(self, name: str, declared: Declared, user: object) -> Queue:
        """Do as the topology does, and start the queue's timers."""
        queue, _ = self.topology.declare_queue(name, declared, user)
        self.used(queue)
        return queue

    def delete_queue(self, queue: Queue) -> None:
        """Delete a queue, and tell its consumers."""
        for timers in (self._expiries, self._ends):
            if timer := timers.pop(queue, None):
                timer.cancel()
        self.topology.remove_queue(queue)
        for consumer in list(queue.consumers):
            queue.consumers.remove(consumer)
            consumer.receiver.consumer_cancelled(consumer)
        queue.ready.clear()

    def delete_queues_of(self, owner: object) -> None:
        """Delete the exclusive queues of a connection."""
        for queue in [queue for queue in self.topology.queues.values() if queue.declared.owner is owner]:
            self.delete_queue(queue)

    def add_consumer(self, consumer: Consumer) -> None:
        """Let a consumer have messages."""
        consumer.queue.consumers.add(consumer)
        self.used(consumer.queue)
        self.serve(consumer.queue)

    def release(self, consumers: Sequence[Consumer], held: Mapping[Queue, Sequence[Entry]]) -> None:
        """Take consumers away, then put back what they held: none of it is delivered to one that leaves too.

        An auto-delete queue goes with its last consumer.
        """
        for consumer in consumers:
            queue = consumer.queue
            queue.consumers.remove(consumer)
            if queue.is_deleted:
                continue
            if queue.declared.auto_delete and not queue.consumers:
                self.delete_queue(queue)
            else:
                self.used(queue)
        for queue, entries in held.items():
            self.give_back(queue, entries)
        for queue in {consumer.queue: None for consumer in consumers}:
            if not queue.is_deleted:
                self.serve(queue)

    def take(self, queue: Queue) -> Entry | None:
        """Take the next message for a basic.get."""
        self.used(queue)
        self.serve(queue)  # what has expired is not given out
        return queue.take()

    def give_back(self, queue: Queue, entries: Sequence[Entry]) -> None:
        """Put unacked messages back."""
        queue.unacked -= len(entries)
        if not queue.is_deleted:
            self._give_up(queue, queue.give_back(entries), DELIVERY_LIMIT)
            self.serve(queue)

    def reject(self, queue: Queue, entries: Sequence[Entry]) -> None:
        """Dead-letter unacked messages."""
        queue.unacked -= len(entries)
        if not queue.is_deleted:
            self._give_up(queue, entries, REJECTED)
            self._publish_dead_letters()

    def serve(self, queue: Queue) -> None:
        """Deliver what can be delivered, and let go what has expired or is too much."""
        now_ms = self._clock.now_ms
        if expired := queue.serve(now_ms):
            self._give_up(queue, expired, EXPIRED)
        if queue.is_limited:
            self._give_up(queue, queue.surplus(), TOO_LONG)
        if queue.has_ttl:
            self._watch_expiry(queue)
        if self._given_up:
            self._publish_dead_letters()

    def used(self, queue: Queue) -> None:
        """Start the time again after which an unused queue is deleted."""
        expires_ms = queue.settings.expires_ms
        if expires_ms is None or queue.is_deleted:
            return
        if timer := self._ends.pop(queue, None):
            timer.cancel()
        if not queue.consumers:
            self._ends[queue] = self._clock.call_later(expires_ms, lambda: self.delete_queue(queue))

    def _enqueue(self, queue: Queue, message: Message) -> bool:
        if queue.is_limited and queue.refuses(message):
            if queue.settings.overflow.endswith("dlx"):
                self._give_up(queue, [Entry(message, 0, None)], TOO_LONG)
                self._publish_dead_letters()
            return False
        queue.push(message, self._clock.now_ms)
        self.serve(queue)
        return True

    def _watch_expiry(self, queue: Queue) -> None:
        next_ms = queue.ready.next_expiry_ms()
        timer = self._expiries.get(queue)
        if timer is not None and timer.action is not None:
            if timer.at_ms == next_ms:
                return
            timer.cancel()
        if next_ms is None:
            self._expiries.pop(queue, None)
        else:
            self._expiries[queue] = self._clock.call_at(next_ms, lambda: self.serve(queue))

    def _give_up(self, queue: Queue, entries: Iterable[Entry], reason: str) -> None:
        if queue.settings.dead_letter_exchange is not None:
            self._given_up.extend((queue, entry, reason) for entry in entries)

    def _publish_dead_letters(self) -> None:
        if self._is_dead_lettering:
            return  # the caller further out goes on with the list
        self._is_dead_lettering = True
        try:
            while self._given_up:
                self._dead_letter(*self._given_up.popleft())
        finally:
            self._is_dead_lettering = False

    def _dead_letter(self, queue: Queue, entry: Entry, reason: str) -> None:
        name, key = queue.settings.dead_letter_exchange, queue.settings.dead_letter_key
        exchange = self.topology.exchanges.get(name or "")
        if exchange is None:
            return
        at_s = int((self._wall_ms_at_zero + self._clock.now_ms) / 1000)
        message = dead_lettered(entry.message, Death(queue.name, reason, at_s), exchange.name, key)
        targets = self.topology.route(exchange, message)
        if reason != REJECTED:
            targets = [target for target in targets if not is_cycle(message, target.name)]
        self.deliver(message, targets)
