"""Find the consumer that is connected but does not consume, and have it replaced.

Losses that the broker tells us of are handled by `consumer.Consumer` at once. This is for the silent ones: every few
seconds, on a channel of its own, the queue of each consumer that has been quiet is looked at. A paused one is left
alone, and one that consumes again is a new one.

A false alarm would be a new fault, so a consumer is only replaced when two looks in a row found that the broker knows
no consumer at all, or found messages ready while nothing was delivered, fewer than `prefetch` deliveries are unsettled,
and the messages cannot be meant for others: where there are others, a single active consumer may be one of them, and
so may one of a higher priority, when ours is below 0. If that did not bring a delivery, the next time needs twice the
patience. One look is not enough for the former either: while a quorum queue elects its leader, RabbitMQ answers that it
has no messages and no consumers (rabbit_quorum_queue.erl, stat/2).

It cannot see a consumer that the broker has moved, unasked, to a queue of the same name: there is a consumer then and,
up to its prefetch, nothing is ready. `subscription` prevents that one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
_REPLY_DEADLINE_S = 5.0
_SUSPICIOUS_LOOKS = 2
_MOST_PATIENCE_LOOKS = 200


@dataclass(slots=True)
class _Watch:
    """What the last looks at one consumer found."""

    consumer_tag: str | None = None
    delivered: int = 0
    suspicious: int = 0
    patience: int = _SUSPICIOUS_LOOKS

    def is_quiet(self, consumer: Consumer) -> bool:
        """Note the present and say whether nothing was delivered since the last look."""
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
        self._link = link
        self._watches = [(consumer, _Watch()) for consumer in consumers]
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Look every few seconds; ends only by cancellation."""
        while True:
            await asyncio.sleep(self._look_every_s)
            with suppress(BrokerError, TimeoutError):  # the link and the consumers notice and report it themselves
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
                ready, consumers = await topology.depth(channel, consumer.queue.name)
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
    """Whether what is ready may be meant for another consumer of the queue, which has not come to take it yet.

    A priority above 0 is no reason: who gives one wants to be served first, so being passed over is suspicious.
    """
    return queue.single_active_consumer or queue.consumer_priority < 0
