"""What a handler may know beside its payload."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from mxworker.delivery import Delivery


class Context:
    """The surroundings of one delivery; made for it, and of no use after its handler returned.

    `delivery` is the raw message, `queue` the queue it was consumed from, `handler` the handler's name.
    """

    __slots__ = ("delivery", "handler", "queue")

    def __init__(self, delivery: Delivery, queue: str, handler: str) -> None:
        self.delivery = delivery
        self.queue = queue
        self.handler = handler

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
