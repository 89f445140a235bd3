"""The context of a handler: facts of its delivery, and the resources of its worker."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mxworker.api.attempts import attempt_of
from mxworker.api.delivery import Delivery
from mxworker.errors import MxWorkerError
from mxworker.system.log import kept
from mxworker.system.printable import foreign

_BATCH_IDS = 10  # of a batch in a log line

if TYPE_CHECKING:  # only for annotations: this room imports nothing that does I/O (see test_imports)
    from mxworker.amqp.connecting.pool import BorrowedChannel, Pool, PoolStats
    from mxworker.amqp.publishing.publisher import Publisher


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """The counts of this worker process since its start, over all handlers."""

    messages_processed: int
    """Deliveries that were acked."""
    messages_failed: int
    """Executions that ended in a requeue, a retry or a rejection, with those that ran out of time."""
    active_workers: int
    """Handlers that run now."""
    queued_tasks: int
    """Deliveries that wait here for a free place."""


class WorkerControls(Protocol):
    """The calls of a context that reach its worker process."""

    @property
    def stats(self) -> WorkerStats:
        """The counts of the process so far."""

    def pause(self, queue: str) -> None:
        """Stop consuming a queue. Raises KeyError when no handler here consumes it."""

    def resume(self, queue: str) -> None:
        """Consume a queue again. Raises KeyError when no handler here consumes it."""


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """The resources that all handlers of a worker process share. They are made once."""

    pool: Pool
    publisher: Publisher
    controls: WorkerControls


@dataclass(frozen=True, slots=True)
class HandlerScope:
    """The facts that all deliveries of one handler share. Without `resources`, as in a test, there is no broker."""

    queue: str
    handler: str
    max_attempts: int = 1
    state: Any = None
    resources: WorkerResources | None = None
    worker: int | None = None
    """The number of the worker; None without a service."""

    def facts_of(self, handled: Delivery | Sequence[Delivery]) -> dict[str, object]:
        """Return the facts of a delivery or a batch for log lines; texts of a publisher are printable and bounded."""
        facts: dict[str, object] = {"queue": self.queue, "handler": self.handler}
        if not isinstance(handled, Delivery) and len(handled) == 1:
            (handled,) = handled
        if isinstance(handled, Delivery):
            correlation_id = handled.properties.correlation_id
            facts["message_id"] = handled.shown_id
            facts["correlation_id"] = None if correlation_id is None else foreign(correlation_id)
            facts["attempt"] = attempt_of(handled, self.max_attempts)
        else:
            facts["messages"] = len(handled)
            facts["message_ids"] = [shown for each in handled[:_BATCH_IDS] if (shown := each.shown_id) is not None]
        facts["worker"] = self.worker
        return facts


class Context:
    """The context of one delivery or one batch. Do not use it after the handler has returned.

    `delivery` is the raw message, in a batch the first one. `deliveries` are all messages, in the order of the
    payloads.
    """

    __slots__ = ("_scope", "deliveries", "delivery")

    def __init__(self, delivery: Delivery, scope: HandlerScope, deliveries: Sequence[Delivery] | None = None) -> None:
        """`deliveries` is given for a batch only."""
        self.delivery = delivery
        self.deliveries = (delivery,) if deliveries is None else tuple(deliveries)
        self._scope = scope

    @property
    def queue(self) -> str:
        """The queue that the delivery was consumed from."""
        return self._scope.queue

    @property
    def handler(self) -> str:
        """The handler's name."""
        return self._scope.handler

    @property
    def attempt(self) -> int:
        """The number of this execution of the message, from 1 on; in a batch, that of its first delivery.

        Executions that a worker's death or a lost connection cut off do not count.
        """
        return attempt_of(self.delivery, self._scope.max_attempts)

    @property
    def state(self) -> Any:
        """The value that the lifespan of the handler's registry yielded in this process; None without a lifespan."""
        return self._scope.state

    @property
    def publisher(self) -> Publisher:
        """The publisher of this process: `await ctx.publisher.publish(body, routing_key="queue")`.

        Every publish is confirmed. A `def` handler uses `publish_sync`; every other method raises RuntimeError there.
        Before a delivery is acked, mxworker awaits the receipts of `publish_nowait` that its handler did not await, and
        the publishes that the handler runs in tasks. A `publish` that is never awaited fails the delivery.
        """
        return self._resources.publisher

    def channel(self) -> BorrowedChannel:
        """Borrow a plain aio-pika channel: `async with ctx.channel() as channel:`.

        The channel's connection is not the one that consumes. Publishes on the channel are confirmed: a message that is
        returned or refused raises. The channel goes back at the end of the block, also when the handler is cancelled;
        in a drain it lives as long as its handler. Do not use it after the block or in other tasks. Waiting for a
        channel takes 5 s at most, and then raises PoolExhausted, ConnectionLost or ChannelLost. Raises RuntimeError in
        a `def` handler.
        """
        return self._resources.pool.channel()

    def pause(self, queue: str | None = None) -> None:
        """Stop consuming a queue in this process, by default the handler's own. Running handlers go on.

        Deliveries that wait here go back to the queue. A call of `resume` in another handler or in a task ends the
        pause, and so does a restart of the worker. Raises KeyError when no handler of this process consumes the queue.
        """
        self._resources.controls.pause(queue or self.queue)

    def resume(self, queue: str | None = None) -> None:
        """End a `pause` of a queue. Raises KeyError when no handler of this process consumes the queue."""
        self._resources.controls.resume(queue or self.queue)

    @property
    def stats(self) -> WorkerStats:
        """The counts of this process so far."""
        return self._resources.controls.stats

    @property
    def pool_stats(self) -> PoolStats:
        """The connections and channels of this process now."""
        return self._resources.pool.stats()

    @property
    def _resources(self) -> WorkerResources:
        resources = self._scope.resources
        if resources is None:
            raise MxWorkerError("this context was made without a worker, so there is no broker to reach through it")
        return resources

    @property
    def is_stale(self) -> bool:
        """Whether the delivery's channel has ended: the broker redelivers the message, whatever the handler returns."""
        return self.delivery.is_stale

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger with the name of the handler. Its records have the facts of the message, also after the handler."""
        return _DeliveryLogger(kept(f"mxworker.handler.{self.handler}"), self._scope.facts_of(self.deliveries))


class _DeliveryLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the delivery's facts to the caller's `extra`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge the facts into the caller's `extra`."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
