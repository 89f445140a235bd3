"""Keeping one queue consumed, by replacing its subscription.

Whatever ends a subscription (the connection, a 404 or 406, a server-sent basic.cancel), a new one is opened, with
backoff. Replace, never repair.

Must not know: handlers, concurrency, processes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from mxworker.amqp.connection import BrokerConnection, Link
from mxworker.amqp.subscription import Admit, Subscription
from mxworker.backoff import RECONNECT, next_attempt
from mxworker.errors import BrokerError, ChannelLost
from mxworker.queues import Queue

log = logging.getLogger(__name__)

_OPEN_DEADLINE_S = 30.0


class Consumer:
    """Keeps one queue consumed while `run` runs."""

    def __init__(
        self, link: Link, queue: Queue, prefetch: int, admit: Admit, on_change: Callable[[], None], rng: random.Random
    ) -> None:
        """Prepare; `on_change` is called whenever `is_consuming` or `last_error` may have changed."""
        self.queue = queue
        self.prefetch = prefetch
        self.last_error: BrokerError | None = None
        """Why the queue is not consumed, or was not the last time; None before the first failure."""
        self.subscription: Subscription | None = None
        self._link = link
        self._admit = admit
        self._on_change = on_change
        self._rng = rng
        self._opening: asyncio.Task[Subscription] | None = None

    @property
    def is_consuming(self) -> bool:
        """Whether a subscription is live."""
        return self.subscription is not None and not self.subscription.is_lost

    async def run(self) -> None:
        """Subscribe, wait for the loss, subscribe again; ends only by cancellation. The last subscription stays."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            connection = await self._link.connection()
            try:
                self._opening = asyncio.create_task(self._open(connection))
                self.subscription = await asyncio.shield(self._opening)
            except BrokerError as error:
                await self._rest(error, connection, attempt)
                attempt += 1
                continue
            log.info("consuming queue %s, prefetch %d", self.queue.name, self.prefetch)
            self.last_error = None
            self._on_change()
            loss = await asyncio.shield(self.subscription.lost)
            attempt = next_attempt(attempt, loop.time() - self.subscription.opened_at)
            await self.subscription.close()
            await self._rest(loss, connection, attempt)

    async def _open(self, connection: BrokerConnection) -> Subscription:
        try:
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                return await Subscription.open(connection, self.queue, self.prefetch, self._admit)
        except TimeoutError:
            raise ChannelLost(f"queue '{self.queue.name}': no answer within {_OPEN_DEADLINE_S:g} s") from None

    async def cancel(self) -> None:
        """Stop the deliveries for good: returns once none will follow. Call after `run` was cancelled.

        A subscription may have been in the making then. It may have delivered already, and only one that is known can
        be cancelled and drained, so its opening is waited for, up to 30 s.
        """
        if self._opening is not None:
            await asyncio.wait({self._opening})
            if not self._opening.cancelled() and self._opening.exception() is None:
                self.subscription = self._opening.result()
        if self.subscription is not None:
            await self.subscription.cancel()

    async def abandon(self) -> None:
        """Give up a subscription that is still in the making. Call at the very end."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})

    async def _rest(self, error: BrokerError, connection: BrokerConnection, attempt: int) -> None:
        self.last_error = error
        self._on_change()
        if connection.plane.lost.done():
            return  # the link says so and backs off; here waiting for the next connection is enough
        delay_s = RECONNECT.delay_s(attempt, self._rng)
        log.warning("queue %s is not consumed: %s; next attempt in %.1f s", self.queue.name, error, delay_s)
        await asyncio.sleep(delay_s)

    def rebuild(self, why: str) -> None:
        """Replace the subscription although nothing said that it ended; `run` does it."""
        if self.subscription is not None:
            self.subscription.give_up(why)
