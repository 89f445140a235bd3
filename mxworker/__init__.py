"""mxworker: a multi-process RabbitMQ worker service.

    from mxworker import Handlers, Reject

    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        if payload["total"] < 0:
            raise Reject("negative total")

What is named here, and the exceptions in `mxworker.errors`, is the public interface; everything else may change. All
that the signature of a public name mentions is public, too, but for the constructors of what only mxworker makes:
`Context`, `Delivery`, `Publisher`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mxworker.api.circuit_breaker import CircuitBreaker
from mxworker.api.context import Context, WorkerStats
from mxworker.api.delivery import Delivery
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.handler_options import BatchOptions, HandlerOptions, OnError, SingleOptions
from mxworker.api.handlers import Handlers
from mxworker.api.message import Content, Message, MessageOptions
from mxworker.api.message_facts import MessageFacts
from mxworker.api.middleware import CallNext
from mxworker.api.queues import Queue
from mxworker.api.retry_policy import RetryPolicy
from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement
from mxworker.config.publisher import PublisherOptions, PublisherSettings
from mxworker.payloads.compression import Compression
from mxworker.payloads.serializers import Serializer
from mxworker.wire.origins import Origin
from mxworker.wire.properties import Properties

__version__ = "0.1.0"
__all__ = [
    "Ack",
    "BatchOptions",
    "BorrowedChannel",
    "CallNext",
    "CircuitBreaker",
    "Compression",
    "Confirmed",
    "Content",
    "Context",
    "Delivery",
    "Failure",
    "FailureKind",
    "HandlerOptions",
    "Handlers",
    "Message",
    "MessageFacts",
    "MessageOptions",
    "OnError",
    "Origin",
    "PoolStats",
    "Properties",
    "PublishOutcome",
    "Publisher",
    "PublisherOptions",
    "PublisherSettings",
    "PublisherStats",
    "Queue",
    "Receipt",
    "Reject",
    "Requeue",
    "Retry",
    "RetryPolicy",
    "Serializer",
    "Settlement",
    "SingleOptions",
    "WorkerStats",
    "all_confirmed",
    "any_failed",
    "drain",
    "results",
    "wait_all",
    "wait_any",
]

if TYPE_CHECKING:
    from mxworker.amqp.connecting.pool import BorrowedChannel, PoolStats
    from mxworker.amqp.publishing.publisher import Publisher
    from mxworker.amqp.publishing.stats import PublisherStats
    from mxworker.api.receipts import (
        Confirmed,
        PublishOutcome,
        Receipt,
        all_confirmed,
        any_failed,
        drain,
        results,
        wait_all,
        wait_any,
    )
else:  # a type checker that saw `__getattr__` would accept every misspelt name
    # Importing asyncio takes longer than all other imports together, and the AMQP library takes longer than asyncio.
    _IMPORTED_LATE = (
        "mxworker.api.receipts",
        "mxworker.amqp.publishing.publisher",
        "mxworker.amqp.publishing.stats",
        "mxworker.amqp.connecting.pool",
    )

    def __getattr__(name: str) -> Any:
        """Import a name on first use when its import is slow."""
        if name in __all__:
            for module in map(import_module, _IMPORTED_LATE):
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"module 'mxworker' has no attribute {name!r}")

    def __dir__() -> list[str]:
        """List the names that are imported late too, for completion and for hints about misspelt names."""
        return sorted({*globals(), *__all__})
