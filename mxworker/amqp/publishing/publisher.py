"""Publish messages. The broker confirms each of them, and no outcome claims more than is known.

    Publisher.publish -> Outbox.accept -> PublisherChannel.send -> the wire
    Receipt.end       <- Outbox.confirmed <- ConfirmSink.on_confirm <--+

The outcome of a publish is exactly one of: `Confirmed`; EncodeError, MessageTooLarge or PublishOverflow, when nothing
was sent; PublishNacked or Unroutable, when the broker refused it; PublishUnconfirmed, when its fate is unknown. A
CancelledError is a real cancellation of the caller, and nothing else.

Belongs to one event loop and one process: make it after a fork.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import random
import threading
from asyncio import _get_running_loop  # None without one: cheaper, and asked for each publish
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Literal, Unpack

from mxworker.amqp.connecting.connection import Dialler, Link, until_up
from mxworker.amqp.connecting.tls import check_files
from mxworker.amqp.publishing.channels import Channels
from mxworker.amqp.publishing.exchanges import Exchanges
from mxworker.amqp.publishing.message_ids import MessageIds
from mxworker.amqp.publishing.outbox import Outbox
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.amqp.publishing.routes import Routes
from mxworker.amqp.publishing.stats import PublisherStats, PublishTally
from mxworker.amqp.publishing.traced import Accept, How, traced
from mxworker.amqp.publishing.unawaited import Begun, begin, unawaited
from mxworker.api.message import Content, Encoder, MessageOptions
from mxworker.api.receipts import Confirmed, PublishOutcome, Receipt
from mxworker.brokers import Brokers, Tls
from mxworker.config.publisher import PublisherOptions, PublisherSettings
from mxworker.errors import EncodeError, PublishError, PublishOverflow, PublishUnconfirmed
from mxworker.payloads.compression import Compression, compression_of
from mxworker.payloads.serializers import Serializer
from mxworker.system.log_events import log_event
from mxworker.tracing.tracer import Tracer, find_tracer

log = logging.getLogger(__name__)

_SYNC_GRACE_S = 2.0  # a publish ends at its own timeout; after this time the event loop does not answer
_BODIES_PER_TURN = 256  # of publish_many, so that other tasks run in between
_FORKED = (
    "this process was forked from the one that has the publisher and its connection, so nothing was sent: "
    "publish in the parent process, or with a Publisher.connect(...) made here"
)


class Publisher:
    """Publishes over one connection, by a few channels in confirm mode.

    In a worker it is `ctx.publisher`. Elsewhere: `async with Publisher.connect(url) as publisher`.
    """

    def __init__(
        self,
        link: Link,
        settings: PublisherSettings,
        encoder: Encoder,
        rng: random.Random,
        tally: PublishTally | None = None,
    ) -> None:
        """Prepare; nothing is sent before `run` runs. Publishes that come earlier wait, each up to its timeout.

        `tally` counts the publishes by exchange.
        """
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._settings = settings
        self._encoder = encoder
        self._ids = MessageIds()
        self._exchanges = Exchanges()
        self._outbox = Outbox(settings, self._loop, rng, link, self._exchanges, tally)
        self._channels = Channels(link, self._outbox, self._exchanges, settings.channels, rng)
        self._routes = Routes(settings.channels)
        self._take: Accept = self._accept

    @classmethod
    def connect(
        cls,
        *urls: str,
        settings: PublisherSettings | None = None,
        compression: Compression | Literal["none", "gzip", "zstd"] | None = None,
        serializers: Mapping[str, Serializer] | None = None,
        shuffled: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        name: str = "mxworker publisher",
        connect_wait_s: float = 30.0,
        **options: Unpack[PublisherOptions],
    ) -> AbstractAsyncContextManager[Publisher]:
        """Connect to a broker, and yield a publisher. At its end wait for open outcomes, up to 30 s, and close it.

        `urls` are tried in order, or `shuffled`. A broker that fails is not tried again for a while. For amqps://
        `tls_ca` names the file of the CA to trust instead of the system's; `tls_cert` and `tls_key` name the files of
        our own certificate. `options` are fields of `PublisherSettings`, and replace those of `settings`.
        `compression` replaces that of `settings`; `serializers`, by content type, encode bodies. The broker's operator
        sees the `name` of the connection.

        Raises ConfigError for a wrong setting, URL or file; ConnectionLost, when no broker answers within
        `connect_wait_s` seconds; CredentialsRefused or TlsRefused, at once, when every broker refused us.
        """
        settings = replace(settings or PublisherSettings(), **options)
        brokers = Brokers.parse(urls, shuffled, Tls(tls_ca, tls_cert, tls_key))
        if isinstance(compression, str):
            settings, compression = replace(settings, compression=compression), None
        encoder = Encoder(compression or compression_of(settings), serializers, settings.max_body_bytes)
        return cls._lent(brokers, settings, encoder, name, connect_wait_s)

    @classmethod
    @asynccontextmanager
    async def _lent(
        cls, brokers: Brokers, settings: PublisherSettings, encoder: Encoder, name: str, connect_wait_s: float
    ) -> AsyncIterator[Publisher]:
        check_files(brokers.tls)
        rng = random.Random()  # noqa: S311  not for secrets; seeded by the system
        attempted = asyncio.Event()
        link = Link(Dialler(brokers, rng), name, attempted.set)
        publisher = cls(link, settings, encoder, rng)
        tracer = find_tracer()
        if tracer is not None:
            trace(publisher, tracer)
        duties = [asyncio.create_task(link.run()), asyncio.create_task(publisher.run())]
        try:
            await until_up(link, attempted, connect_wait_s)
            try:
                yield publisher
            finally:
                await publisher.drain()
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.wait(duties)
            await publisher.close()
            await link.close()

    # ---- publishing

    def publish(
        self,
        body: Any,
        *,
        routing_key: str,
        exchange: str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
        **options: Unpack[MessageOptions],
    ) -> Coroutine[Any, Any, Confirmed]:
        """Publish and wait for the confirm. You must await it. Raises the PublishError of a failed publish.

        `body` is bytes, text, any value that JSON can hold, a `Message`, or a `Content` made by `prepare`; `options`
        are those of `Message`. The default exchange routes by queue name. `timeout_s` is the time for all attempts,
        including the waits for room and for a connection; default: the publisher's, 5 s.

        A message that no queue takes ends in Unroutable. With `mandatory=False` the broker confirms such a message and
        drops it; use that for exchanges that route later, such as one that delays messages. Direct replies, to a
        routing key that begins with `amq.rabbitmq.reply-to.`, are never mandatory, since the broker also returns those
        that arrive (https://www.rabbitmq.com/docs/direct-reply-to). `Confirmed.may_be_unrouted` is True for both.

        Raises RuntimeError when it is awaited in another event loop than the publisher's: see `publish_sync`. In a
        handler, a publish that is never awaited fails the delivery, and one that runs in a task is awaited before the
        ack.
        """
        begun = begin("publish")
        coroutine = self._confirmed(begun, body, (exchange, routing_key, mandatory, timeout_s), options)
        if begun is not None:
            begun.by(coroutine)
        return coroutine

    async def _confirmed(self, begun: Begun | None, body: Any, how: How, options: MessageOptions) -> Confirmed:
        try:
            self._check_loop("publish")
            publishing = self._take(body, how, options, True)
            try:
                confirmed = await publishing.receipt
            except asyncio.CancelledError:
                self._outbox.abandon(publishing)
                raise
        except BaseException as error:
            if begun is not None:
                begun.end(error)
            raise
        if begun is not None:
            begun.end()
        return confirmed

    def publish_nowait(
        self,
        body: Any,
        *,
        routing_key: str,
        exchange: str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
        **options: Unpack[MessageOptions],
    ) -> Receipt:
        """Publish as `publish` does, without waiting. The receipt gets the outcome.

        Raises EncodeError and MessageTooLarge at once, and PublishOverflow at a full window; with `overflow="drop"`
        the receipt has the PublishOverflow instead. Raises RuntimeError outside the publisher's event loop: see
        `publish_sync`. Receipts that a handler does not await are awaited before its delivery is acked, and their
        failure is the handler's failure.
        """
        self._check_loop("publish_nowait")
        try:
            how = (exchange, routing_key, mandatory, timeout_s)
            receipt = self._take(body, how, options, False).receipt
        except PublishOverflow as error:
            if self._settings.overflow != "drop":
                raise
            receipt = Receipt(options.get("message_id") or "")
            receipt.end(error)
            return receipt
        receipts = unawaited.get()
        if receipts is not None:
            receipts.add(receipt)
        return receipt

    def publish_many(
        self,
        bodies: Iterable[Any],
        *,
        routing_key: str,
        exchange: str = "",
        mandatory: bool = True,
        timeout_s: float | None = None,
        **options: Unpack[MessageOptions],
    ) -> Coroutine[Any, Any, list[PublishOutcome]]:
        """Publish each body as `publish` does, and return an outcome for each, in the same order. You must await it.

        A failed publish does not stop the others, and each has its own timeout. At a full window the next publish waits
        for those before it; when publishes of other callers have filled the window, `overflow` decides.
        """
        begun = begin("publish_many")
        coroutine = self._all_ended(begun, bodies, (exchange, routing_key, mandatory, timeout_s), options)
        if begun is not None:
            begun.by(coroutine)
        return coroutine

    async def _all_ended(
        self, begun: Begun | None, bodies: Iterable[Any], how: How, options: MessageOptions
    ) -> list[PublishOutcome]:
        try:
            self._check_loop("publish_many")
            outcomes = await self._outcomes(bodies, how, options)
        except BaseException as error:
            if begun is not None:
                begun.end(error)
            raise
        if begun is not None:
            begun.end_all(outcomes)
        return outcomes

    async def _outcomes(self, bodies: Iterable[Any], how: How, options: MessageOptions) -> list[PublishOutcome]:
        outcomes: list[Receipt | PublishError] = []
        still_open: deque[Receipt] = deque()
        for number, body in enumerate(bodies, 1):
            if number % _BODIES_PER_TURN == 0:
                await asyncio.sleep(0)
            while still_open and self._outbox.is_full:
                await _outcome(still_open.popleft())
            try:
                receipt = self._take(body, how, options, True).receipt
            except PublishError as error:
                outcomes.append(error)
            else:
                outcomes.append(receipt)
                still_open.append(receipt)
        return [await _outcome(outcome) for outcome in outcomes]

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
        """Publish as `publish` does, from a thread that is not the event loop's. Blocks until the outcome is known.

        Returns when the publisher is closed, and at the latest 2 s after the timeout, even if the loop is blocked.
        Raises RuntimeError in the event loop's thread, and in a process that was forked from the publisher's.
        """
        if _get_running_loop() is self._loop:
            raise RuntimeError("publish_sync would block the event loop; in an 'async def' use: await publish(...)")
        if os.getpid() != self._pid:
            raise RuntimeError(_FORKED)
        if self._outbox.is_closed:  # the loop may have ended, too, and would never run the publish
            raise PublishOverflow("not sent: the publisher is closed")
        begun = begin("publish_sync")
        publishing = self._confirmed(begun, body, (exchange, routing_key, mandatory, timeout_s), options)
        outcome = asyncio.run_coroutine_threadsafe(publishing, self._loop)
        wait_s = (self._settings.timeout_s if timeout_s is None else timeout_s) + _SYNC_GRACE_S
        try:
            return outcome.result(min(wait_s, threading.TIMEOUT_MAX))
        except concurrent.futures.CancelledError:  # the process is ending and has cancelled its tasks
            raise PublishUnconfirmed("the event loop ended before the confirm came") from None
        except TimeoutError:
            outcome.cancel()
            if begun is not None:  # the caller gets the outcome, so its handler need not wait for a later one
                with suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(begun.end)
            raise PublishUnconfirmed("the event loop did not answer in time") from None

    def prepare(self, body: Any, **options: Unpack[MessageOptions]) -> Content:
        """Encode a message once, to publish it many times. Raises EncodeError or MessageTooLarge.

        It may be called in a thread, so that the compression of a large body does not block the event loop:
        `await publisher.publish(await asyncio.to_thread(publisher.prepare, body, compression="gzip"), ...)`.
        """
        return self._encoder.encode(body, options)

    def _check_loop(self, method: str) -> None:
        if _get_running_loop() is not self._loop:
            if os.getpid() != self._pid:
                raise RuntimeError(_FORKED)
            raise RuntimeError(
                f"{method}(...) works in the event loop that the publisher was made in, and in no other; "
                "in a 'def' handler, or another thread, use publish_sync(...)."
            )

    def _accept(self, body: Any, how: How, options: MessageOptions, may_wait: bool) -> Publishing:
        """Encode a publish and give it to the outbox. A publish that is refused here is counted, and was not sent."""
        exchange, routing_key, mandatory, timeout_s = how
        try:
            content = self._encoder.encode(body, options)
            route = self._routes.find(exchange, routing_key, mandatory)
            if timeout_s is not None and not (isinstance(timeout_s, int | float) and timeout_s > 0):
                raise EncodeError(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}")
            self._outbox.check(may_wait)
        except PublishError as error:
            self._outbox.refuse(error, exchange)
            raise
        message_id = content.message_id or self._ids.next()
        properties = b"".join((content.head, bytes((len(message_id),)), message_id, content.tail))
        now = self._loop.time()
        deadline = now + (self._settings.timeout_s if timeout_s is None else timeout_s)
        publishing = Publishing(route, message_id, properties, content.body, deadline, now)
        self._outbox.accept(publishing, has_own_timeout=timeout_s is not None)
        return publishing

    # ---- life

    @property
    def stats(self) -> PublisherStats:
        """The counts of publishes so far."""
        return self._outbox.stats()

    async def run(self) -> None:
        """Keep the channels open, until cancelled. The owner calls this once."""
        await self._channels.run()

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Wait for the outcomes of all publishes so far, and return whether all have one.

        Waits at most `timeout_s` seconds; default: the publisher's `drain_timeout_s`, 30 s.
        """
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s if timeout_s is None else timeout_s):
                await self._outbox.emptied()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Refuse further publishes, and end those without an outcome as unconfirmed or as not sent.

        The owner calls this after `drain`, when `run` was cancelled, and then closes the connection.
        """
        self._outbox.is_closed = True
        if self._outbox.in_flight:
            facts = log_event("publisher_closed_early", in_flight=self._outbox.in_flight)
            text = "the publisher is closed with %d publishes without an outcome"
            log.warning(text, self._outbox.in_flight, extra=facts)
        await self._channels.close()
        await self._exchanges.close()
        self._outbox.end_all("the publisher was closed")


async def _outcome(receipt: Receipt | PublishError) -> PublishOutcome:
    try:
        return receipt if isinstance(receipt, PublishError) else await receipt
    except PublishError as error:
        return error


def trace(publisher: Publisher, tracer: Tracer) -> None:
    """Make a span for each publish of `publisher` from now on. Its owner calls this at most once."""
    publisher._take = traced(publisher._accept, tracer)
