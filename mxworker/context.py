"""What a handler may know beside its payload."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mxworker.delivery import Delivery
from mxworker.errors import MxWorkerError

if TYPE_CHECKING:  # names of what handlers are given; this module is a word and uses none of it (see test_imports)
    from mxworker.amqp.pool import BorrowedChannel, Pool
    from mxworker.amqp.publisher import Publisher


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a worker process has for all its handlers; the service makes it once."""

    pool: Pool
    publisher: Publisher


class Context:
    """The surroundings of one delivery; made for it, and of no use after its handler returned.

    `delivery` is the raw message, `queue` the queue it was consumed from, `handler` the handler's name.
    """

    __slots__ = ("_equipment", "delivery", "handler", "queue")

    def __init__(self, delivery: Delivery, queue: str, handler: str, equipment: Equipment | None = None) -> None:
        """Without `equipment`, as in a test of a handler, there is no broker to reach."""
        self.delivery = delivery
        self.queue = queue
        self.handler = handler
        self._equipment = equipment

    @property
    def publisher(self) -> Publisher:
        """The publisher of this process: `await ctx.publisher.publish(body, routing_key="queue")`.

        Every publish is confirmed. Receipts of `publish_nowait` that the handler does not await are awaited before its
        delivery is acked.
        """
        return self._equipped.publisher

    def channel(self) -> BorrowedChannel:
        """Borrow a plain aio-pika channel: `async with ctx.channel() as channel:`.

        Its connection is not the one that consumes, and publishes on it are confirmed: one that is returned or refused
        raises. It goes back at the end of the block, also when the handler is cancelled; in a drain it lives as long as
        its handler. Do not use it after the block or in other tasks. Waiting for one takes 5 s at most; then raises
        PoolExhausted, or ConnectionLost or ChannelLost (see `mxworker.amqp.pool.Pool.channel`).
        """
        return self._equipped.pool.channel()

    @property
    def _equipped(self) -> Equipment:
        if self._equipment is None:
            raise MxWorkerError("this context was made without a worker, so there is no broker to reach through it")
        return self._equipment

    @property
    def is_stale(self) -> bool:
        """Whether the delivery's channel has ended: the broker will deliver it again whatever this handler does."""
        return self.delivery.is_stale

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the handler, whose lines carry queue and message id."""
        return _DeliveryLog(
            logging.getLogger(f"mxworker.handler.{self.handler}"),
            {"queue": self.queue, "message_id": self.delivery.message_id},
        )


class _DeliveryLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the delivery's facts to `extra`, beside what the caller puts there."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge the facts into the caller's `extra`."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
