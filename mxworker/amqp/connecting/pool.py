"""The connections of one process, by role, and the channels that its handlers borrow.

- `consume_link` carries the consumers, `publish_link` the publisher: an alarm that blocks publishes must not stop acks.
- Borrowed channels have separate connections, which are opened on demand. All their frames go through the library, and
  a message that the library cannot read ends the whole connection, which must never be the one that consumes.

This module must not know queues, handlers, or what a borrower does.

Invariants:
- Channels are lent in the order of the requests: while a borrower waits, no channel is idle.
- Tasks of the pool open and close the channels, so a borrower that is cancelled or gives up leaves a usable channel for
  the next one, and never a half-opened one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.borrowing import Connect, Lend, Open, Supply, Wait, next_step
from mxworker.amqp.connecting.channel_pool import ChannelPool, PooledChannel
from mxworker.amqp.connecting.connection import BrokerConnection, Dialler, Link
from mxworker.amqp.connecting.exhaustion import Use
from mxworker.amqp.connecting.transport import Wire
from mxworker.brokers import Brokers
from mxworker.config.bounds import DEFAULT_MAX_BODY_BYTES
from mxworker.config.pool import PoolSettings
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost, PoolExhausted
from mxworker.system.cancellation import cancel_requests, raise_own_cancellation
from mxworker.system.log_events import log_event

log = logging.getLogger(__name__)

BorrowedChannel = AbstractAsyncContextManager[AbstractChannel]
"""What `ctx.channel()` returns: `async with` lends a plain channel of aio-pika."""

_OWN_ROLES = 2  # consume and publish; the other connections are for handlers


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The connections of a process and their channels, at one time."""

    active_connections: int
    """Live connections that consume, publish, or have a borrowed channel."""
    idle_connections: int
    """Live connections for borrowed channels, of which none is borrowed."""
    total_channels: int
    """The channels of all live connections, with those that are being opened or closed."""
    borrowed_channels: int
    """The channels that handlers have borrowed."""
    max_connections: int
    """The most connections that the process may have, see the pool's `max_connections`."""

    def __str__(self) -> str:
        return (
            f"{self.active_connections} connections active and {self.idle_connections} idle, "
            f"at most {self.max_connections}; {self.total_channels} channels, {self.borrowed_channels} borrowed"
        )


class _PooledConnection:
    """One connection for borrowed channels: its link, and its channels while it is up."""

    __slots__ = ("channels", "keeping", "link", "made_at")

    def __init__(self, link: Link, made_at: float) -> None:
        self.link = link
        self.made_at = made_at
        self.channels: ChannelPool | None = None
        self.keeping: asyncio.Task[None] | None = None

    @property
    def supply(self) -> Supply:
        """What this connection has for borrowers now."""
        channels = self.channels
        if channels is None:
            return Supply(is_up=False, has_idle=False, opening=0, room=0)
        return Supply(not channels.is_lost, channels.has_idle, channels.opening, channels.room)

    @property
    def is_lending(self) -> bool:
        """Whether a channel of this connection is borrowed."""
        return self.channels is not None and self.channels.borrowed > 0

    def is_unused_since(self, instant: float) -> bool:
        """Tell whether no channel is borrowed or opening, and none was borrowed since the loop time `instant`."""
        used_at = self.made_at if self.channels is None else self.channels.used_at
        return used_at <= instant and not self.is_lending and not self.supply.opening


class Pool:
    """The connections of one process. Made inside a running loop; `run` is called once, `close` after it."""

    def __init__(
        self,
        settings: PoolSettings,
        brokers: Brokers,
        name: str,
        on_change: Callable[[], None],
        rng: random.Random,
        level_of: Callable[[BrokerError], int] = lambda _: logging.WARNING,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        wire: Wire | None = None,
    ) -> None:
        """Connect nothing before `run`.

        The broker's operator sees each connection under `name` followed by its role. `on_change` is called whenever the
        last error of `consume_link` has changed. For `level_of`, `max_body_bytes` and `wire` see `Dialler`.
        """
        self._settings = settings
        self._dialler = Dialler(brokers, rng, settings.connect_timeout_s, level_of, max_body_bytes, wire)
        self._name = name
        self._loop = asyncio.get_running_loop()
        self.consume_link = self._new_link("consume", on_change)
        self.publish_link = self._new_link("publish")
        self._lines: list[
            _PooledConnection
        ] = []  # at most max_connections - 2; the first is used first, so that the others can idle
        self._waiting: deque[asyncio.Future[PooledChannel]] = deque()  # one for each waiting borrower
        self._tasks: asyncio.TaskGroup | None = None
        self._borrowed = 0
        self._warned: set[str] = set()
        self.on_borrowed: Callable[[float], None] = lambda waited_s: None
        """Called with the seconds that a handler waited for each channel that it got."""

    def _new_link(self, role: str, on_change: Callable[[], None] = lambda: None) -> Link:
        return Link(self._dialler, f"{self._name} {role}", on_change)

    def on_loss(self, call: Callable[[BrokerConnection], None]) -> None:
        """Have `call` called with each connection that has ended by itself, and is made anew."""
        self._dialler.on_loss = call

    def expect_until(self, gives_up_at: float | None) -> None:
        """Log failures with the loop time at which the process stops trying; None means that it never does."""
        self._dialler.gives_up_at = gives_up_at

    # ---- life

    async def run(self) -> None:
        """Keep the connections up, and check them every `health_check_s`, until cancelled.

        After that no channel is lent, and live connections stay up until `close`.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                tasks.create_task(self.consume_link.run())
                tasks.create_task(self.publish_link.run())
                while len(self._lines) < self._settings.min_connections - _OWN_ROLES:
                    self._add_line()
                while True:
                    await asyncio.sleep(self._settings.health_check_s)
                    await self._look()
            finally:
                self._tasks = None
                while (place := self._first_waiting()) is not None:
                    self._waiting.popleft()
                    place.set_exception(_closed())

    async def close(self) -> None:
        """Close the connections within 2 s. Call this after `run` was cancelled."""
        await asyncio.gather(*(link.close() for link in self._links))

    @property
    def _links(self) -> list[Link]:
        return [self.consume_link, self.publish_link, *(line.link for line in self._lines)]

    def _spawn(self, duty: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task of the pool, or drop it when the pool has ended."""
        if self._tasks is None:
            duty.close()
        else:
            self._tasks.create_task(duty)

    # ---- borrowing

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """Lend a plain aio-pika channel, with publisher confirms on, for the length of the block.

        A publish that is returned or refused raises. Use the channel only inside the block. It may have been used
        before; a channel that broke, consumed, got messages, or had its qos changed is not lent again. Waits up to
        `borrow_timeout_s`, then raises PoolExhausted, or ConnectionLost or ChannelLost when the broker does not answer.
        When the channel is lost, the library raises its own exceptions inside the block. If the library reports the
        loss as a cancellation, the block raises ChannelLost. Raises RuntimeError in another event loop than the pool's.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "a channel can be borrowed in the worker's own event loop only, so in an 'async def' handler; "
                "a 'def' handler publishes with ctx.publisher.publish_sync(...)."
            )
        asked_at = self._loop.time()
        pooled = await self._borrow()
        self.on_borrowed(self._loop.time() - asked_at)
        self._borrowed += 1
        self._watch_exhaustion()
        requests = cancel_requests()
        try:
            yield pooled.channel
        except asyncio.CancelledError as error:
            raise_own_cancellation(since=requests)
            if not pooled.is_lost:
                raise
            raise ChannelLost("the borrowed channel was lost") from error
        finally:
            self._borrowed -= 1
            self._put(pooled)

    async def _borrow(self) -> PooledChannel:
        if self._tasks is None:
            raise _closed()
        place: asyncio.Future[PooledChannel] = self._loop.create_future()
        self._waiting.append(place)
        self._serve()
        if place.done():
            return place.result()
        try:
            async with asyncio.timeout(self._settings.borrow_timeout_s):
                return await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._put(place.result())  # the channel came in the same loop turn as the cancellation
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(place)

    def _put(self, pooled: PooledChannel) -> None:
        pooled.channels.put(pooled)
        self._serve()

    def _first_waiting(self) -> asyncio.Future[PooledChannel] | None:
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def _serve(self) -> None:
        """Lend channels to the waiting borrowers as far as possible; see `borrowing.next_step` for the cases."""
        while self._tasks is not None and (place := self._first_waiting()) is not None:
            may_connect = len(self._lines) < self._settings.max_connections - _OWN_ROLES
            supplies = [line.supply for line in self._lines]
            match next_step(len(self._waiting), supplies, self._settings.max_channels, may_connect):
                case Lend(index):
                    self._waiting.popleft()
                    place.set_result(self._channels_of(index).take())
                case Open(index, count):
                    channels = self._channels_of(index)
                    for _ in range(count):
                        self._spawn(self._open(channels, channels.reserve()))
                case Connect():
                    self._add_line()
                case Wait():
                    return

    def _channels_of(self, index: int) -> ChannelPool:
        channels = self._lines[index].channels
        assert channels is not None, "it is not up"
        return channels

    async def _open(self, channels: ChannelPool, number: int) -> None:
        try:
            await channels.open(number)
        except ConnectionLost as error:
            # The library has given the connection up. The abort makes its link open a new one.
            channels.connection.plane.abort(error)
            return
        except BrokerError as error:
            if (place := self._first_waiting()) is not None:  # each failure ends one wait, so attempts are bounded
                self._waiting.popleft()
                place.set_exception(error)
        self._serve()

    def _refusal(self) -> BrokerError:
        """Return why no channel came in time."""
        late = f"no channel within {self._settings.borrow_timeout_s:g} s"
        pools = [line.channels for line in self._lines if line.channels is not None]
        if not pools:
            reasons = [line.link.last_error for line in self._lines if line.link.last_error is not None]
            return ConnectionLost(f"{late}: no connection to the broker: {reasons[0] if reasons else 'no answer yet'}")
        if any(channels.opening or channels.room for channels in pools):
            return ChannelLost(f"{late}: the broker does not open one; is it blocked by an alarm?")
        limits = " + ".join(str(channels.limit) for channels in pools)
        return PoolExhausted(
            f"{late}: {self._borrowed} are borrowed, and there may be {limits} on the connections for handlers.\n"
            "  Hold channels for a shorter time, lower the concurrency of the handlers, or raise "
            "--pool-max-connections or --pool-max-channels."
        )

    # ---- connections for borrowed channels

    def _add_line(self) -> None:
        line = _PooledConnection(self._new_link("handlers"), self._loop.time())
        self._lines.append(line)
        if self._tasks is not None:
            line.keeping = self._tasks.create_task(self._keep(line))

    async def _keep(self, line: _PooledConnection) -> None:
        """Keep a connection up, with a new channel pool for each connect, and close it when it is trimmed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(line.link.run())
                while True:
                    connection = await line.link.connection()
                    line.channels = ChannelPool(connection, self._settings, self._spawn, self._serve)
                    self._serve()
                    await asyncio.shield(connection.plane.lost)
                    line.channels = None
        finally:
            line.channels = None
            if self._tasks is not None:  # else the pool ends, and `close` closes all connections at the same time
                await line.link.close()

    # ---- the periodic check

    async def _look(self) -> None:
        await asyncio.gather(*(line.channels.check() for line in self._lines if line.channels is not None))
        self._trim(self._loop.time())
        self._tell()

    def _trim(self, now: float) -> None:
        for line in self._lines:
            if line.channels is not None:
                line.channels.trim(now)
        spare = len(self._lines) - max(0, self._settings.min_connections - _OWN_ROLES)
        long_ago = now - self._settings.idle_trim_s
        unused = [] if self._waiting else [line for line in self._lines if line.is_unused_since(long_ago)]
        for line in unused[::-1][:spare]:
            self._lines.remove(line)
            assert line.keeping is not None
            line.keeping.cancel()

    def _tell(self) -> None:
        stats = self.stats()
        log.info("Pool health: %s", stats, extra=log_event("pool_health", **asdict(stats)))
        self._warned &= {use.what for use in self._uses(stats) if use.is_nearly_all}
        self._watch_exhaustion()

    def _watch_exhaustion(self) -> None:
        """Warn when nine tenths of connections or channels are in use, of each once until a check finds that over."""
        stats = self.stats()
        for use in self._uses(stats):
            if use.is_nearly_all and use.what not in self._warned:
                self._warned.add(use.what)
                facts = log_event("pool_nearly_exhausted", what=use.what, used=use.used, most=use.most, **asdict(stats))
                log.warning("Connection pool nearly exhausted: %s; %s", use, stats, extra=facts)

    def _uses(self, stats: PoolStats) -> list[Use]:
        """Return the use of what can be exhausted. A connection that was not up yet counts with what others allow."""
        uses = []
        for what, link in (("channels of consumers", self.consume_link), ("channels of publishers", self.publish_link)):
            if (connection := link.live) is not None:
                uses.append(Use(what, len(connection.channel_numbers), connection.channel_max))
        allowed = (line.channels.limit for line in self._lines if line.channels is not None)
        each = min(allowed, default=self._settings.max_channels)
        most = (self._settings.max_connections - _OWN_ROLES) * each
        uses.append(Use("channels for handlers", stats.borrowed_channels, most))
        uses.append(Use("connections", stats.active_connections, stats.max_connections))
        return uses

    @property
    def lent_connections(self) -> tuple[int, int, int]:
        """How many connections for handlers have a borrowed channel, have none, and are being made."""
        live = [line for line in self._lines if line.link.live is not None]
        lending = sum(line.is_lending for line in live)
        return lending, len(live) - lending, len(self._lines) - len(live)

    @property
    def lent_channels(self) -> tuple[int, int]:
        """How many channels for handlers are borrowed, and how many are open beside them."""
        opened = [len(live.channel_numbers) for line in self._lines if (live := line.link.live) is not None]
        return self._borrowed, max(0, sum(opened) - self._borrowed)

    def stats(self) -> PoolStats:
        """Count the live connections, their channels, and the borrowed channels."""
        connections = [connection for link in self._links if (connection := link.live) is not None]
        idle = sum(line.link.live is not None and not line.is_lending for line in self._lines)
        return PoolStats(
            active_connections=len(connections) - idle,
            idle_connections=idle,
            total_channels=sum(len(connection.channel_numbers) for connection in connections),
            borrowed_channels=self._borrowed,
            max_connections=self._settings.max_connections,
        )


def _closed() -> BrokerError:
    return ConnectionLost("the connections of this process are closed")
