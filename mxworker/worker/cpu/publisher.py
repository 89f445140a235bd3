"""`ctx.publisher` of a `cpu=True` handler: it encodes messages here, and the worker publishes them.

A `cpu=True` handler has no other resource of its worker, which keeps the connections.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, cast

from mxworker.amqp.publishing.unawaited import Begun, begin
from mxworker.api.context import WorkerResources
from mxworker.api.message import Content, Encoder, MessageOptions, check_route_name
from mxworker.api.receipts import Confirmed
from mxworker.errors import (
    MessageTooLarge,
    MxWorkerError,
    PublishError,
    PublishOverflow,
    PublishUnconfirmed,
)
from mxworker.worker.cpu.pipe import Pipe
from mxworker.worker.cpu.protocol import Outgoing, ProtocolBroken, max_parts_bytes, outcome_of, publish

if TYPE_CHECKING:  # importing it would import the AMQP library, which these processes do without
    from mxworker.amqp.publishing.publisher import Publisher


class CpuPublisher:
    """Publishes through the worker while a request is open. Its methods are a part of those of `Publisher`.

    Several threads publish one after the other.
    """

    def __init__(self, pipe: Pipe, encoder: Encoder) -> None:
        """You must `open` it for each request, and `close` it before the answer."""
        self._in_handler = False
        self._pid = os.getpid()
        self._pipe = pipe
        self._encoder = encoder
        self._most_bytes = max_parts_bytes(encoder.max_body_bytes)
        self._turn = threading.Lock()
        self._is_open = False

    def open(self) -> None:
        """Allow publishing for the handler that begins now."""
        self._is_open = True

    def close(self) -> None:
        """Wait for the publish of a thread that is under way, and refuse further ones."""
        with self._turn:
            self._is_open = False

    def publish_sync(
        self,
        body: Any,
        *,
        routing_key: str,
        exchange: str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
        **options: Unpack[MessageOptions],
    ) -> Confirmed:
        """Publish and wait for the confirm; see `Publisher.publish`. Raises the PublishError of a failed publish.

        Raises RuntimeError in a process that the handler has forked: the pipe to the worker belongs to its parent.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this process was forked from the one that publishes, so nothing was sent: publish in the parent"
            )
        for name, value in (("exchange", exchange), ("routing_key", routing_key)):
            check_route_name(name, value)
        asked = publish(Outgoing(self.prepare(body, **options), exchange, routing_key, mandatory, timeout_s))
        if asked.parts_bytes > self._most_bytes:
            raise MessageTooLarge(
                f"the message has {asked.parts_bytes} bytes with its properties, the limit is {self._most_bytes}"
            )
        with self._turn:
            if not self._is_open:
                raise PublishOverflow("not sent: the handler has returned")
            try:
                self._pipe.send_now(asked)
                answer = self._pipe.receive_now()
                outcome = None if answer is None else outcome_of(answer)
            except (OSError, EOFError):
                outcome = None
            except ProtocolBroken as error:
                self._pipe.end()  # the start of the next frame is unknown: the worker sees the end, and kills us
                raise PublishUnconfirmed(f"the worker's answer makes no sense: {error}") from error
        if outcome is None:
            raise PublishUnconfirmed("the worker ended before the confirm came")
        if isinstance(outcome, PublishError):
            raise outcome
        return outcome

    def publish(self, body: Any, **how: Any) -> Coroutine[Any, Any, Confirmed]:
        """Do as `publish_sync` does, for middleware. Raises RuntimeError in the handler, which cannot await."""
        if self._in_handler:
            raise RuntimeError(
                "publish(...) has to be awaited, and a cpu=True handler cannot await; use publish_sync(...)."
            )
        begun = begin("publish")
        coroutine = self._publish(begun, body, how)
        if begun is not None:
            begun.by(coroutine)
        return coroutine

    async def _publish(self, begun: Begun | None, body: Any, how: Mapping[str, Any]) -> Confirmed:
        try:
            confirmed = await asyncio.to_thread(self.publish_sync, body, **how)
        except BaseException as error:
            if begun is not None:
                begun.end(error)
            raise
        if begun is not None:
            begun.end()
        return confirmed

    def without_await(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls `function`, and refuses `publish` meanwhile."""

        def call(*arguments: Any) -> Any:
            self._in_handler = True
            try:
                return function(*arguments)
            finally:
                self._in_handler = False

        return call

    def prepare(self, body: Any, **options: Unpack[MessageOptions]) -> Content:
        """Encode a message once, to publish it many times. Raises EncodeError or MessageTooLarge."""
        return self._encoder.encode(body, options)

    def __getattr__(self, name: str) -> NoReturn:
        """Raise an error that names what a cpu=True handler has."""
        raise MxWorkerError(f"a cpu=True handler has no ctx.publisher.{name}; it has publish_sync")


class _NotHere:
    """Stands for the resources that only a worker has."""

    def __getattr__(self, name: str) -> NoReturn:
        raise MxWorkerError(f"a cpu=True handler has no connection and no worker around it, so it has no ctx.{name}")


def resources(publisher: CpuPublisher) -> WorkerResources:
    """Return the resources for a context here: a publisher, and objects that raise a clear error for all else."""
    # Casts, since protocols for these types would have no other use.
    return WorkerResources(
        pool=cast("Any", _NotHere()), publisher=cast("Publisher", publisher), controls=cast("Any", _NotHere())
    )
