"""One broker connection, and the link that keeps one up.

`BrokerConnection` is one connection from its handshake to its end; it is replaced, never repaired. `Link` replaces it,
with jittered backoff between attempts. `Dialler` makes the attempts of all links of a process: one at a time, each
under a deadline, each to the broker that `Rotation` names.

This module must not know queues, handlers, or what a connection is used for.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - name resolution imports it; here it is imported before the fork, and shared
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.library_errors import handshake_error, library_errors
from mxworker.amqp.connecting.outage import Outage
from mxworker.amqp.connecting.transport import DataPlane, DataPlaneFactory, Wire
from mxworker.backoff import next_attempt
from mxworker.brokers import DEFAULT_TLS, Brokers, BrokerUrl, Rotation, Tls
from mxworker.config.bounds import DEFAULT_MAX_BODY_BYTES, MAX_CHANNELS
from mxworker.errors import BrokerError, ConnectionLost
from mxworker.system.cancellation import cancel_requests, raise_own_cancellation
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign, one_line

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 10.0
CLOSE_DEADLINE_S = 2.0
_SERVER_CHARACTERS = 100
_LOST = "an established connection was lost"


class _ControlConnection(aio_pika.Connection):
    """aio-pika's plain connection, on our transport."""

    def __init__(self, url: str, factory: DataPlaneFactory, name: str) -> None:
        super().__init__(aio_pika.connection.make_url(url), client_properties={"connection_name": name})
        self.kwargs["transport_factory"] = factory


class BrokerConnection:
    """One established connection: aio-pika's control plane and our data plane on one socket."""

    def __init__(self, url: BrokerUrl, control: aio_pika.Connection, plane: DataPlane) -> None:
        self.url = url
        self.plane = plane
        self._control = control
        self._closing: set[asyncio.Task[None]] = set()  # one task for each channel that waits for its close-ok

    @classmethod
    async def open(
        cls,
        url: BrokerUrl,
        name: str,
        deadline: float,
        tls: Tls = DEFAULT_TLS,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        wire: Wire | None = None,
    ) -> BrokerConnection:
        """Connect, encrypt for amqps://, authenticate and tune before the loop time `deadline`.

        The broker's operator sees the connection under `name`; bodies above `max_body_bytes` are not read. With
        `wire` there is no socket. Raises ConnectionLost, CredentialsRefused or TlsRefused.
        """
        factory = DataPlaneFactory(max_body_bytes, url.heartbeat_s, tls, wire)
        control = _ControlConnection(url.dsn, factory, name)
        requests = cancel_requests()
        try:
            async with asyncio.timeout_at(deadline):
                await control.connect()
        except (asyncio.CancelledError, Exception) as error:
            if factory.plane is not None:
                factory.plane.abort(ConnectionLost("given up"))
            raise_own_cancellation(since=requests)
            if asyncio.get_running_loop().time() >= deadline:  # the library may have turned our timeout into any error
                raise ConnectionLost(f"no answer from {url.place} in time") from None
            raise handshake_error(error, factory.plane.frames.close_reason if factory.plane else None) from error
        assert factory.plane is not None
        factory.plane.watch_peer(url.heartbeat_s)
        return cls(url, control, factory.plane)

    @property
    def server(self) -> str:
        """The product and version that the broker sent, at most 100 characters of each."""
        transport = self._control.transport
        properties: dict[str, Any] = dict(transport.connection.server_properties or {}) if transport else {}
        said = (properties.get("product", "unknown broker"), properties.get("version", ""))
        return " ".join(foreign(text, _SERVER_CHARACTERS) for text in said).rstrip()

    @property
    def channel_max(self) -> int:
        """The negotiated highest channel number. The broker ends a connection that uses a higher one (530)."""
        transport = self._control.transport
        return (transport.connection.connection_tune.channel_max if transport else 0) or MAX_CHANNELS

    @property
    def channel_numbers(self) -> frozenset[int]:
        """The numbers of all channels that are open, opening or closing."""
        transport = self._control.transport
        return frozenset(transport.connection.channels) if transport else frozenset()

    async def channel(self, number: int | None = None, *, confirms: bool = False) -> AbstractChannel:
        """Open a plain aio-pika channel, which the caller must close. Raises ConnectionLost or ChannelLost.

        `number` must be free. With None the library chooses one; it ignores `channel_max`, and reuses a number only
        after all higher ones are gone. With `confirms`, a publish that the broker nacks or returns raises.
        """
        with library_errors():
            channel = self._control.channel(number, publisher_confirms=confirms, on_return_raises=confirms)
            await channel.initialize()
        return channel

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Close a channel and wait up to 2 s for its close-ok. Never raises, even when the channel has ended.

        The close is not cancelled with its caller: the library would send a second channel.close, and the broker would
        answer that by closing the whole connection (504).
        """
        closing = asyncio.create_task(_close_quietly(channel))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.wait({closing}, timeout=CLOSE_DEADLINE_S)

    async def close(self) -> None:
        """Close the connection within 2 s. Never raises when the peer does not answer."""
        # The close is aborted, not cancelled: on cancellation the library still waits until the socket is flushed.
        closed = ConnectionLost("closed")
        give_up = asyncio.get_running_loop().call_later(CLOSE_DEADLINE_S, self.plane.abort, closed)
        try:
            with suppress(BrokerError), library_errors():
                await self._control.close()
        finally:
            give_up.cancel()
            self.plane.abort(closed)


async def _close_quietly(channel: AbstractChannel) -> None:
    with suppress(BrokerError), library_errors():
        await channel.close()


class Dialler:
    """Makes the connections of a process for all its links, one attempt at a time.

    So later attempts know what the first one has learnt about a broker, and a broker that comes back gets one handshake
    at a time from each process, not one from each link.
    """

    def __init__(
        self,
        brokers: Brokers,
        rng: random.Random,
        connect_timeout_s: float = CONNECT_DEADLINE_S,
        level_of: Callable[[BrokerError], int] = lambda _: logging.WARNING,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        wire: Wire | None = None,
    ) -> None:
        """`connect_timeout_s` bounds one attempt: TCP, TLS and the AMQP handshake.

        `level_of` returns the log level for an error. Bodies above `max_body_bytes` are not read. With `wire` there are
        no sockets.
        """
        self._max_body_bytes = max_body_bytes
        self._wire = wire
        self.rotation = Rotation(brokers, rng)
        self.gives_up_at: float | None = None
        """The loop time at which the process stops trying, for the log; None when it never does."""
        self._tls = brokers.tls
        self._connect_timeout_s = connect_timeout_s
        self._attempt = asyncio.Lock()
        self._outage = Outage()
        self.on_loss: Callable[[BrokerConnection], None] = lambda connection: None
        """Called with each established connection that has ended by itself, and is made anew."""
        self._level_of = level_of

    async def dial(self, name: str) -> BrokerConnection:
        """Connect to the next broker; wait first if that broker has just refused us. Raises BrokerError."""
        loop = asyncio.get_running_loop()
        async with self._attempt:
            url = await self._turn()
            deadline = loop.time() + self._connect_timeout_s
            try:
                connection = await BrokerConnection.open(
                    url, name, deadline, self._tls, self._max_body_bytes, self._wire
                )
            except BrokerError as error:
                self.rotation.note_failed(url, error, loop.time())
                self._tell_failure(url, error)
                raise
            self.rotation.note_connected(url)
            self._tell_connected(url, connection)
            return connection

    def note_loss(self, connection: BrokerConnection, loss: ConnectionLost) -> None:
        """Record and log that an established connection has ended."""
        self.on_loss(connection)
        now = asyncio.get_running_loop().time()
        self.rotation.note_failed(connection.url, loss, now)
        level = self._level_of(loss) if self._outage.is_news(str(connection.url), _LOST, now) else logging.DEBUG
        facts = log_event("connection_lost", broker=str(connection.url), error=str(loss))
        log.log(level, "lost the connection to %s: %s; connecting again", connection.url, one_line(loss), extra=facts)

    def _tell_failure(self, url: BrokerUrl, error: BrokerError) -> None:
        now = asyncio.get_running_loop().time()
        level = self._level_of(error) if self._outage.is_news(str(url), str(error), now) else logging.DEBUG
        left_s = None if self.gives_up_at is None else max(0.0, self.gives_up_at - now)
        what = "no broker" if isinstance(error, ConnectionLost) else "no connection"
        log.log(
            level,
            "%s at %s: %s; trying %s",
            what,
            url,
            one_line(error),
            "again until it is there" if left_s is None else f"for {left_s:.0f} s more",
            extra=log_event("connection_failed", broker=str(url), error=str(error), gives_up_in_s=left_s),
        )

    def _tell_connected(self, url: BrokerUrl, connection: BrokerConnection) -> None:
        """Log the end of an outage; a connection without an outage is logged at DEBUG only."""
        since = self._outage.end()
        facts = log_event("connection_opened", broker=str(url), server=connection.server)
        if since is None:
            log.debug("connected to %s, %s", url, connection.server, extra=facts)
        else:
            took_s = asyncio.get_running_loop().time() - since
            log.info("connected to %s, %s, after %.1f s", url, connection.server, took_s, extra=facts)

    async def _turn(self) -> BrokerUrl:
        loop = asyncio.get_running_loop()
        while True:
            url, open_at = self.rotation.turn(loop.time())
            if open_at <= loop.time():
                return url
            await asyncio.sleep(open_at - loop.time())


class Link:
    """Keeps one connection to a broker up while `run` runs."""

    def __init__(self, dialler: Dialler, name: str, on_change: Callable[[], None]) -> None:
        """Connect nothing before `run`. `on_change` is called whenever `last_error` has changed."""
        self.last_error: BrokerError | None = None
        """Why there is no connection, or why the last one ended. Permanent only when every broker has refused us."""
        self.was_up = False
        """Whether a connection was ever up."""
        self._dialler = dialler
        self._name = name
        self._on_change = on_change
        self._up: asyncio.Future[BrokerConnection] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Connect, wait for the loss, and connect again, until cancelled."""
        loop = asyncio.get_running_loop()
        attempt = -1  # the number of the last attempt; none yet
        while True:
            try:
                connection = await self._dialler.dial(self._name)
            except BrokerError:
                attempt += 1
                self._say_why()
                await self._rest(attempt)
                continue
            opened_at = loop.time()
            self.was_up = True
            self._up.set_result(connection)
            loss = await asyncio.shield(connection.plane.lost)
            self._up = loop.create_future()
            self._dialler.note_loss(connection, loss)
            self._say_why()
            attempt = next_attempt(attempt, loop.time() - opened_at)
            await connection.close()
            await self._rest(attempt)

    def _say_why(self) -> None:
        self.last_error = self._dialler.rotation.verdict
        self._on_change()

    async def _rest(self, attempt: int) -> None:
        await asyncio.sleep(self._dialler.rotation.rest_s(attempt, asyncio.get_running_loop().time()))

    async def connection(self) -> BrokerConnection:
        """Return the live connection. While there is none, wait without a deadline."""
        while True:
            connection = await asyncio.shield(self._up)
            if not connection.plane.lost.done():
                return connection
            await asyncio.sleep(0)  # the plane knows of the loss one loop turn before `run` notices it

    @property
    def live(self) -> BrokerConnection | None:
        """The live connection, or None."""
        return self._up.result() if self._up.done() and not self._up.result().plane.lost.done() else None

    async def close(self) -> None:
        """Close the live connection, if there is one. Call this after `run` was cancelled."""
        if self._up.done():
            await self._up.result().close()


async def until_up(link: Link, changed: asyncio.Event, wait_s: float) -> None:
    """Wait until the link is up. Raise its last error after `wait_s` seconds, or at once when that error is permanent.

    The link's `on_change` must set `changed`, which nobody else may clear.
    """
    connecting = asyncio.create_task(link.connection())
    connecting.add_done_callback(lambda _: changed.set())
    try:
        async with asyncio.timeout(wait_s):
            while not connecting.done():
                await changed.wait()
                changed.clear()
                if link.last_error is not None and link.last_error.permanent:
                    raise link.last_error
    except TimeoutError:
        raise link.last_error or ConnectionLost(f"no connection within {wait_s:g} s") from None
    finally:
        connecting.cancel()
