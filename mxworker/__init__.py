"""mxworker: a multi-process RabbitMQ worker service.

    from mxworker import Handlers, Reject

    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        if payload["total"] < 0:
            raise Reject("negative total")

The names in `__all__` and the exceptions in `mxworker.errors` are the public interface; everything else may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mxworker.api.circuit_breaker import CircuitBreaker
from mxworker.api.context import Context
from mxworker.api.delivery import Delivery
from mxworker.api.handlers import Handlers
from mxworker.api.message import Message
from mxworker.api.queues import Queue
from mxworker.api.retry_policy import RetryPolicy
from mxworker.api.settlement import Ack, Reject, Requeue, Retry
from mxworker.config import PublisherSettings
from mxworker.wire.origins import Origin

if TYPE_CHECKING:
    from mxworker.amqp.publishing.publisher import Publisher

__version__ = "0.1.0"
__all__ = [
    "Ack",
    "CircuitBreaker",
    "Context",
    "Delivery",
    "Handlers",
    "Message",
    "Origin",
    "Publisher",
    "PublisherSettings",
    "Queue",
    "Reject",
    "Requeue",
    "Retry",
    "RetryPolicy",
]


def __getattr__(name: str) -> Any:
    """Import `Publisher` on first use: with the AMQP library it takes longer than everything else here together."""
    if name == "Publisher":
        return import_module("mxworker.amqp.publishing.publisher").Publisher
    raise AttributeError(f"module 'mxworker' has no attribute {name!r}")
