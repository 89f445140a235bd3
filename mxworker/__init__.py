"""mxworker: a multi-process RabbitMQ worker service.

    from mxworker import Handlers, Reject

    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        if payload["total"] < 0:
            raise Reject("negative total")

What is named here, the exceptions in `mxworker.errors`, and what `mxworker.testing` has for tests, is the public
interface; everything else may change. All that the signature of a public name mentions is public, too, but for the
constructors of what only mxworker makes: `Context`, `Delivery`, `Publisher`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "PoolSettings",
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
    from mxworker.api.retry_policy import RetryPolicy
    from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement
    from mxworker.config.pool import PoolSettings
    from mxworker.config.publisher import PublisherOptions, PublisherSettings
    from mxworker.payloads.compression import Compression
    from mxworker.payloads.serializers import Serializer
    from mxworker.wire.origins import Origin
    from mxworker.wire.properties import Properties
else:  # a type checker that saw `__getattr__` would accept every misspelt name
    # Imported at first use: asyncio and the AMQP library take long, and every run of pytest imports this module.
    _HOMES = {
        "BorrowedChannel": "mxworker.amqp.connecting.pool",
        "PoolStats": "mxworker.amqp.connecting.pool",
        "Publisher": "mxworker.amqp.publishing.publisher",
        "PublisherStats": "mxworker.amqp.publishing.stats",
        "CircuitBreaker": "mxworker.api.circuit_breaker",
        "Context": "mxworker.api.context",
        "WorkerStats": "mxworker.api.context",
        "Delivery": "mxworker.api.delivery",
        "Failure": "mxworker.api.failures",
        "FailureKind": "mxworker.api.failures",
        "BatchOptions": "mxworker.api.handler_options",
        "HandlerOptions": "mxworker.api.handler_options",
        "OnError": "mxworker.api.handler_options",
        "SingleOptions": "mxworker.api.handler_options",
        "Handlers": "mxworker.api.handlers",
        "Content": "mxworker.api.message",
        "Message": "mxworker.api.message",
        "MessageOptions": "mxworker.api.message",
        "MessageFacts": "mxworker.api.message_facts",
        "CallNext": "mxworker.api.middleware",
        "Queue": "mxworker.api.queues",
        "Confirmed": "mxworker.api.receipts",
        "PublishOutcome": "mxworker.api.receipts",
        "Receipt": "mxworker.api.receipts",
        "all_confirmed": "mxworker.api.receipts",
        "any_failed": "mxworker.api.receipts",
        "drain": "mxworker.api.receipts",
        "results": "mxworker.api.receipts",
        "wait_all": "mxworker.api.receipts",
        "wait_any": "mxworker.api.receipts",
        "RetryPolicy": "mxworker.api.retry_policy",
        "Ack": "mxworker.api.settlement",
        "Reject": "mxworker.api.settlement",
        "Requeue": "mxworker.api.settlement",
        "Retry": "mxworker.api.settlement",
        "Settlement": "mxworker.api.settlement",
        "PoolSettings": "mxworker.config.pool",
        "PublisherOptions": "mxworker.config.publisher",
        "PublisherSettings": "mxworker.config.publisher",
        "Compression": "mxworker.payloads.compression",
        "Serializer": "mxworker.payloads.serializers",
        "Origin": "mxworker.wire.origins",
        "Properties": "mxworker.wire.properties",
    }

    def __getattr__(name: str) -> Any:
        """Import a name at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module 'mxworker' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        """List the names that were not used yet too, for completion and for hints about misspelt names."""
        return sorted({*globals(), *__all__})
