"""Find a consumer that is connected but gets no deliveries, and replace it.

`consumer.Consumer` handles the losses that the broker reports at once. This module finds the silent ones: every few
seconds, on a separate channel, it checks the queue of each consumer that got no delivery since the last check. A paused
consumer is left alone, and a consumer that was resumed counts as a new one.

A false alarm would be a new fault, so a consumer is replaced only when two checks in a row found one of two states.
Either the broker knows no consumer of the queue, or messages are ready, none was delivered, and fewer than `prefetch`
are unsettled. The second does not count when the messages may be meant for another consumer: a single active consumer,
or one with a higher priority when ours is below 0. If the replacement gets no delivery, the next one needs twice as
many checks. One check is not enough for the first state either: while a quorum queue elects its leader, RabbitMQ
answers that the queue has no messages and no consumers (rabbit_quorum_queue.erl, stat/2).

This check cannot find a consumer that the broker has silently moved to a new queue with the same name: that queue has a
consumer, and up to its prefetch no message is ready. `subscription` prevents that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.depth import depth
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
_REPLY_DEADLINE_S = 5.0
_SUSPICIOUS_LOOKS = 2
_MOST_PATIENCE_LOOKS = 200


@dataclass(slots=True)
class _Watch:
    """The results of the last checks of one consumer."""

    consumer_tag: str | None = None
    delivered: int = 0
    suspicious: int = 0
    patience: int = _SUSPICIOUS_LOOKS

    def is_quiet(self, consumer: Consumer) -> bool:
        """Record the present counts, and return whether nothing was delivered since the last check."""
        tag, delivered = consumer.consumer_tag, consumer.delivered
        if tag == self.consumer_tag and delivered == self.delivered:
            return True
        if delivered:
            self.patience = _SUSPICIOUS_LOOKS
        self.consumer_tag, self.delivered, self.suspicious = tag, delivered, 0
        return False


class Reconciler:
    """Watches the consumers of one link while `run` runs."""

    def __init__(self, link: Link, consumers: Sequence[Consumer], look_every_s: float = LOOK_EVERY_S) -> None:
        """`consumers` may be filled until `run` starts."""
        self._link = link
        self._consumers = consumers
        self._watches: list[tuple[Consumer, _Watch]] = []
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Check every few seconds, until cancelled."""
        self._watches = [(consumer, _Watch()) for consumer in self._consumers]
        while True:
            await asyncio.sleep(self._look_every_s)
            with suppress(BrokerError, TimeoutError):  # the link and the consumers report such errors themselves
                async with asyncio.timeout(_REPLY_DEADLINE_S):
                    await self._look()

    async def _look(self) -> None:
        quiet = [
            (consumer, watch) for consumer, watch in self._watches if consumer.is_consuming and watch.is_quiet(consumer)
        ]
        connection = self._link.live
        if not quiet or connection is None:
            return
        channel = await connection.channel()
        try:
            for consumer, watch in quiet:
                ready, consumers = await depth(channel, consumer.queue.name)
                self._judge(consumer, watch, ready, consumers)
        finally:
            await connection.close_channel(channel)

    def _judge(self, consumer: Consumer, watch: _Watch, ready: int, consumers: int) -> None:
        subscription = consumer.subscription
        if subscription is None or not consumer.is_consuming or subscription.consumer_tag != watch.consumer_tag:
            return
        has_room = subscription.unsettled < subscription.prefetch
        is_starved = ready and has_room and not (consumers > 1 and _yields(consumer.queue))
        if consumers and not is_starved:
            watch.suspicious = 0
            return
        watch.suspicious += 1
        if not consumers and watch.suspicious >= _SUSPICIOUS_LOOKS:
            consumer.rebuild("the broker knows no consumer of this queue")
        elif consumers and watch.suspicious >= watch.patience:
            watch.patience = min(2 * watch.patience, _MOST_PATIENCE_LOOKS)
            consumer.rebuild(f"{ready} messages are ready and none is delivered")


def _yields(queue: Queue) -> bool:
    """Tell whether ready messages may be meant for another consumer of the queue, which has not taken them yet.

    A priority above 0 is no reason: such a consumer should be served first, so it is suspicious when it is not.
    """
    return queue.single_active_consumer or queue.consumer_priority < 0
