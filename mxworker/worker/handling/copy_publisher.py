"""Publishes the copies of a queue's messages, with confirm, and once more when their queue was missing.

This module knows nothing about the original's settlement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.delivery import Delivery
from mxworker.api.message import Content
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError, DecodeError, EncodeError, MessageTooLarge, TopologyRefused, Unroutable
from mxworker.worker.handling.copies import Facts, KillFacts, bare_facts, copy_with_facts

NO_COPY = (DecodeError, EncodeError, MessageTooLarge)
"""The errors of a message that cannot be copied."""
Repair = Callable[[], Awaitable[None]]
"""Declares the queue and those beside it again. Raises BrokerError."""


class CopyPublisher:
    """Publishes the copies of one queue's messages. All raise PublishError, BrokerError, or one of NO_COPY."""

    def __init__(
        self,
        queue: Queue,
        publisher: Publisher | None,
        repair: Repair | None,
        declare_quarantine: Repair | None = None,
    ) -> None:
        """Without a publisher there are no copies. Without `declare_quarantine` the quarantine is never declared."""
        self._queue = queue
        self._publisher = publisher
        self._repair = None if repair is None else partial(self._repaired, repair)
        self._declare_quarantine = declare_quarantine
        self._repairing: asyncio.Future[None] | None = None

    @property
    def are_possible(self) -> bool:
        """Whether copies can be published."""
        return self._publisher is not None

    async def publish(self, copy: Content, queue: str) -> None:
        """Publish a copy to the queue itself, or to one beside it."""
        await self._publish(copy, queue, self._repair)

    async def dead_letter(self, delivery: Delivery, facts: Facts) -> None:
        """Publish a copy with the facts. If the broker does not dead-letter, body and facts alone replace a copy."""
        queue = self._queue
        if queue.dead_letters_itself:
            await self._publish(copy_with_facts(delivery, facts), queue.dead_letter_name, self._repair)
        else:
            await self._publish_with_facts(delivery, facts, queue.dead_letter_name, self._repair)

    async def set_aside(self, delivery: Delivery, facts: KillFacts) -> str:
        """Publish a copy of a message that kills workers, and return the name of its queue.

        That is the dead-letter queue when there is no quarantine and we may not declare it.
        """
        queue = self._queue
        try:
            await self._publish_with_facts(delivery, facts, queue.quarantine_name, self._declare_quarantine)
        except (Unroutable, EncodeError, TopologyRefused):  # there is no quarantine, or its name is too long
            if not queue.dead_letter:
                raise
            await self._publish_with_facts(delivery, facts, queue.dead_letter_name, self._repair)
            return queue.dead_letter_name
        return queue.quarantine_name

    async def _publish_with_facts(
        self, delivery: Delivery, facts: Facts | KillFacts, queue: str, repair: Repair | None
    ) -> None:
        """Publish a copy with the facts, or body and facts alone when the message cannot be copied."""
        try:
            await self._publish(copy_with_facts(delivery, facts), queue, repair)
        except NO_COPY:
            await self._publish(bare_facts(delivery, facts), queue, repair)

    async def _publish(self, copy: Content, queue: str, repair: Repair | None) -> None:
        """Publish a copy and wait for its confirm. When its queue is missing, publish once more after a repair."""
        if self._publisher is None:
            raise BrokerError("there is no publisher")
        try:
            await self._publisher.publish(copy, routing_key=queue)
        except Unroutable:
            if repair is None:
                raise
            await repair()
            await self._publisher.publish(copy, routing_key=queue)

    async def _repaired(self, repair: Repair) -> None:
        """Wait for a repair. Copies that miss a queue at the same time share one repair."""
        if self._repairing is None or self._repairing.done():
            self._repairing = asyncio.ensure_future(repair())
        await asyncio.shield(self._repairing)
