"""What a handler may know beside its payload."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mxworker.api.attempts import attempt_of
from mxworker.api.delivery import Delivery
from mxworker.errors import MxWorkerError
from mxworker.system.log import kept

if TYPE_CHECKING:  # names of what handlers are given; this module is a word and uses none of it (see test_imports)
    from mxworker.amqp.connecting.pool import BorrowedChannel, Pool
    from mxworker.amqp.publishing.publisher import Publisher


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What this worker process did and does, all handlers together. Counts since its start."""

    messages_processed: int
    """Deliveries that were acked."""
    messages_failed: int
    """Executions that ended in a requeue, a retry or a rejection."""
    active_workers: int
    """Handlers that run now."""
    queued_tasks: int
    """Deliveries that wait here for a free place."""


class WorkerControls(Protocol):
    """What of its worker process a handler may ask about and steer."""

    @property
    def stats(self) -> WorkerStats:
        """What the process did so far."""

    def pause(self, queue: str) -> None:
        """Stop consuming a queue; KeyError when no handler here consumes it."""

    def resume(self, queue: str) -> None:
        """Consume it again; KeyError when no handler here consumes it."""


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What a worker process has for all its handlers; the service makes it once."""

    pool: Pool
    publisher: Publisher
    controls: WorkerControls


@dataclass(frozen=True, slots=True)
class HandlerScope:
    """What is the same for all deliveries of one handler. Without `resources`, as in a test, there is no broker."""

    queue: str
    handler: str
    max_attempts: int = 1
    state: Any = None
    resources: WorkerResources | None = None


class Context:
    """What a handler may know of one delivery, or of a batch; made for it, and of no use after its handler returned.

    `delivery` is the raw message, of a batch the first one; `deliveries` are all of them, in the order of the payloads.
    """

    __slots__ = ("_scope", "deliveries", "delivery")

    def __init__(self, delivery: Delivery, scope: HandlerScope, deliveries: Sequence[Delivery] | None = None) -> None:
        """`deliveries` only for a batch."""
        self.delivery = delivery
        self.deliveries = (delivery,) if deliveries is None else tuple(deliveries)
        self._scope = scope

    @property
    def queue(self) -> str:
        """The queue that it was consumed from."""
        return self._scope.queue

    @property
    def handler(self) -> str:
        """The handler's name."""
        return self._scope.handler

    @property
    def attempt(self) -> int:
        """Which execution of the message this is, counted from 1; of a batch, that of its first delivery.

        One that a worker's death or a lost connection cut off does not count.
        """
        return attempt_of(self.delivery, self._scope.max_attempts)

    @property
    def state(self) -> Any:
        """What the lifespan of the handler's registry yielded, once per process; None without one."""
        return self._scope.state

    @property
    def publisher(self) -> Publisher:
        """The publisher of this process: `await ctx.publisher.publish(body, routing_key="queue")`.

        Every publish is confirmed; a `def` handler uses `publish_sync`, and everything else is a RuntimeError there.
        Receipts of `publish_nowait` that the handler does not await, and publishes that it runs in tasks, are awaited
        before its delivery is acked; a `publish` that is never awaited fails the delivery.
        """
        return self._resources.publisher

    def channel(self) -> BorrowedChannel:
        """Borrow a plain aio-pika channel: `async with ctx.channel() as channel:`.

        Its connection is not the one that consumes, and publishes on it are confirmed: one that is returned or refused
        raises. It goes back at the end of the block, also when the handler is cancelled; in a drain it lives as long as
        its handler. Do not use it after the block or in other tasks; in a `def` handler it is a RuntimeError. Waiting
        for one takes 5 s at most; then raises PoolExhausted, or ConnectionLost or ChannelLost.
        """
        return self._resources.pool.channel()

    def pause(self, queue: str | None = None) -> None:
        """Stop consuming a queue in this process, by default the handler's own; what runs goes on.

        What waits here goes back to the queue. `resume`, from another handler or a task that one made, ends it, and so
        does a restart of the worker. KeyError when no handler of this process consumes it.
        """
        self._resources.controls.pause(queue or self.queue)

    def resume(self, queue: str | None = None) -> None:
        """Consume a queue again that `pause` stopped. KeyError when no handler of this process consumes it."""
        self._resources.controls.resume(queue or self.queue)

    @property
    def stats(self) -> WorkerStats:
        """What this process did so far."""
        return self._resources.controls.stats

    @property
    def _resources(self) -> WorkerResources:
        resources = self._scope.resources
        if resources is None:
            raise MxWorkerError("this context was made without a worker, so there is no broker to reach through it")
        return resources

    @property
    def is_stale(self) -> bool:
        """Whether the delivery's channel has ended: the broker will deliver it again whatever this handler does."""
        return self.delivery.is_stale

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the handler, whose lines carry queue and message id."""
        return _DeliveryLogger(
            kept(f"mxworker.handler.{self.handler}"),
            {"queue": self.queue, "message_id": self.delivery.shown_id},
        )


class _DeliveryLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the delivery's facts to `extra`, beside what the caller puts there."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge the facts into the caller's `extra`."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
