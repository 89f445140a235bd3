"""The channels of one connection that handlers borrow.

A channel pool ends with its connection; a new connection gets a new pool.

This module must not know who waits for a channel, other connections, or handlers.

Invariants:
- A channel is lent to one borrower at a time. It is lent again only when the next borrower finds it as if it were new.
- We choose the channel numbers, from 1 to the limit. A number is free again when the broker has confirmed its close, so
  the connection never has more channels than the broker allows, even while some are closing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aio_pika.abc import AbstractChannel
from aiormq.channel import Channel as Underlay
from pamqp import base, commands

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.config.pool import PoolSettings
from mxworker.errors import BrokerError, ChannelLost

Spawn = Callable[[Coroutine[Any, Any, None]], None]

PROBE_DEADLINE_S = 5.0
# Requests that do not change their channel. All others change it (basic.qos, tx.select), or can leave something behind
# (basic.consume a consumer, basic.get an unsettled delivery): after such a request a channel is not lent again.
_WITHOUT_TRACE = ("Exchange.", "Queue.")


class PooledChannel:
    """A channel that can be lent, with a count of the reasons not to lend it again."""

    __slots__ = ("_ask", "_doubts", "_underlay", "channel", "channels", "idle_since", "number")

    def __init__(self, channel: AbstractChannel, underlay: Underlay, channels: ChannelPool) -> None:
        self.channel = channel
        self.number = underlay.number
        self.channels = channels
        self.idle_since = 0.0
        self._underlay = underlay
        self._ask: Callable[..., Awaitable[Any]] = underlay.rpc
        self._doubts = 0
        underlay.rpc = self._watched  # type: ignore[assignment]  # the library makes all its requests through `rpc`

    async def _watched(self, request: base.Frame, timeout: Any = None) -> Any:
        """Make a request. It is a doubt while it runs, and stays one if it fails or may change the channel."""
        self._doubts += 1
        answer = await self._ask(request, timeout=timeout)
        if request.name.startswith(_WITHOUT_TRACE):
            self._doubts -= 1
        return answer

    @property
    def is_lost(self) -> bool:
        """Whether the channel has ended, alone or with its connection."""
        return self.channel.is_closed or self.channels.is_lost

    @property
    def is_fit(self) -> bool:
        """Whether a borrower would find the channel as if it were new."""
        is_settled = not self._underlay.confirmations  # nobody would wait for a confirm that comes later
        return not self.is_lost and self._doubts == 0 and is_settled and not self.channel.return_callbacks

    async def answers(self) -> bool:
        """Tell whether the broker answers within 5 s to a basic.qos that sets the defaults of a new channel."""
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                with library_errors():
                    await self._ask(commands.Basic.Qos())
        except (BrokerError, TimeoutError):
            return False
        return True


class ChannelPool:
    """The channels of one connection for borrowers. Belongs to one event loop."""

    def __init__(
        self, connection: BrokerConnection, settings: PoolSettings, spawn: Spawn, on_room: Callable[[], None]
    ) -> None:
        """`spawn` runs a coroutine as a task; `on_room` is called after a channel was closed or a check has ended."""
        self.connection = connection
        self.limit = min(settings.max_channels, connection.channel_max)
        """The most channels of the connection."""
        self.borrowed = 0
        self.opening = 0
        self.used_at = asyncio.get_running_loop().time()
        self._settings = settings
        self._spawn = spawn
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._idle: list[PooledChannel] = []  # at most `limit`; the last used is lent first, so that the others age
        self._numbers: set[int] = set()

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return self.connection.plane.lost.done()

    @property
    def room(self) -> int:
        """How many more channels could be opened now."""
        return 0 if self.is_lost else len(self._free_numbers())

    def _free_numbers(self) -> list[int]:
        taken = self._numbers | self.connection.channel_numbers
        return [number for number in range(1, self.limit + 1) if number not in taken]

    # ---- lending

    @property
    def has_idle(self) -> bool:
        """Whether an idle channel can be lent."""
        return any(pooled.is_fit for pooled in reversed(self._idle))

    def take(self) -> PooledChannel:
        """Lend an idle channel. Call this only when `has_idle`."""
        while not (pooled := self._idle.pop()).is_fit:
            self._discard(pooled)
        self.borrowed += 1
        return pooled

    def put(self, pooled: PooledChannel) -> None:
        """Take a channel back, and keep it if it can be lent again."""
        self.borrowed -= 1
        self.used_at = pooled.idle_since = self._loop.time()
        if pooled.is_fit:
            self._idle.append(pooled)
        else:
            self._discard(pooled)

    def reserve(self) -> int:
        """Return a free number for `open`, which must follow. Call this only when there is `room`."""
        number = self._free_numbers()[0]
        self._numbers.add(number)
        self.opening += 1
        return number

    async def open(self, number: int) -> None:
        """Open one more channel, which is idle at first. Raises ChannelLost or ConnectionLost."""
        timeout_s = self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                channel = await self.connection.channel(number, confirms=True)
                underlay = await channel.get_underlay_channel()
                assert isinstance(underlay, Underlay)
        except BaseException as error:
            self._numbers.discard(number)
            if isinstance(error, TimeoutError):
                raise ChannelLost(f"the broker did not open a channel within {timeout_s:g} s") from None
            raise
        finally:
            self.opening -= 1
        pooled = PooledChannel(channel, underlay, self)
        pooled.idle_since = self._loop.time()
        self._idle.append(pooled)

    def _discard(self, pooled: PooledChannel) -> None:
        if not self.is_lost:
            self._spawn(self._close(pooled))

    async def _close(self, pooled: PooledChannel) -> None:
        await self.connection.close_channel(pooled.channel)
        self._numbers.discard(pooled.number)
        self._on_room()

    # ---- the periodic check

    async def check(self) -> None:
        """Probe every idle channel, and discard those that do not answer within 5 s."""
        asked, self._idle = self._idle, []
        answered = await asyncio.gather(*(pooled.answers() for pooled in asked))
        well = [pooled for pooled, is_well in zip(asked, answered, strict=True) if is_well]
        self._idle = well + self._idle
        for pooled in set(asked).difference(well):
            self._discard(pooled)
        self._on_room()

    def trim(self, now: float) -> None:
        """Close channels that were idle for long, except for `warm_channels` of them. `now` is a loop time."""
        spare = max(0, len(self._idle) - self._settings.warm_channels)
        long_ago = now - self._settings.idle_trim_s
        old = [pooled for pooled in self._idle[:spare] if pooled.idle_since <= long_ago]
        self._idle = self._idle[len(old) :]
        for pooled in old:
            self._discard(pooled)
