"""Ask the broker how many messages wait in a queue and in the queues beside it, and how many consumers it has.

A passive queue.declare tells that for every type of queue, and needs no permission. Of a stream, which may serve as a
dead-letter queue, RabbitMQ says that it has no messages. It is sent on a channel that is
used for nothing else, on the connection that consumes: the broker ends the channel when a queue is missing. The channel
is not taken from the pool of handlers.

An answer of no messages and no consumers about a queue that is consumed here is not believed: while a quorum queue
elects its leader, RabbitMQ answers that (rabbit_quorum_queue.erl, stat/2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import BrokerConnection, Link
from mxworker.amqp.connecting.library_errors import NOT_FOUND
from mxworker.amqp.consuming.absent_queues import FIRST_S, MOST_S, AbsentQueues
from mxworker.amqp.consuming.depth import depth
from mxworker.api.queues import Queue
from mxworker.errors import BrokerError, ConnectionLost, TopologyRefused

REPLY_DEADLINE_S = 10.0

_EMPTY = (0, 0)


@dataclass(frozen=True, slots=True)
class Depths:
    """What the broker said of a queue and of those beside it. None is what is not known, or not used."""

    ready: int | None
    consumers: int | None
    retry_waiting: int | None
    dead_letters: int | None
    quarantined: int | None


class DepthReader:
    """Asks about queues on one channel, which it keeps. Belongs to one task."""

    def __init__(self, link: Link) -> None:
        """Open nothing yet."""
        self.asked = 0
        """How many requests were sent since the start."""
        self._link = link
        self._absent = AbsentQueues()
        self._open: tuple[BrokerConnection, AbstractChannel] | None = None

    async def read(self, queue: Queue, retry_steps_ms: Sequence[int], is_consumed: bool) -> Depths:
        """Ask about a queue and the queues beside it. Raises ConnectionLost when there is no connection.

        `is_consumed` is whether this process has consumed the queue for some time. A queue that does not exist holds
        no message: this is so for the quarantine queue until it is needed.
        """
        ready, consumers = await self._ask(queue.name, FIRST_S, absent=None) or (None, None)
        if is_consumed and (ready, consumers) == _EMPTY:
            ready = consumers = None
        retrying = [await self._ask(queue.retry_name(step_ms)) for step_ms in retry_steps_ms]
        dead = await self._ask(queue.dead_letter_name) if queue.dead_letter else None
        quarantined = await self._ask(queue.quarantine_name)
        return Depths(
            ready,
            consumers,
            retry_waiting=_sum(retrying),
            dead_letters=None if dead is None else dead[0],
            quarantined=None if quarantined is None else quarantined[0],
        )

    def expect(self, names: Sequence[str]) -> None:
        """Ask again about queues that were not there: something says that they are now."""
        self._absent.forget(names)

    async def close(self) -> None:
        """Close the channel. A further request opens another one."""
        if self._open is not None:
            connection, channel = self._open
            self._open = None
            await connection.close_channel(channel)

    async def _ask(
        self, name: str, most_s: float = MOST_S, absent: tuple[int, int] | None = _EMPTY
    ) -> tuple[int, int] | None:
        """Return the messages and consumers of a queue, `absent` when it does not exist, None when it is unknown."""
        now = asyncio.get_running_loop().time()
        if self._absent.is_absent(name, now):
            return absent
        self.asked += 1
        try:
            async with asyncio.timeout(REPLY_DEADLINE_S):
                found = await depth(await self._channel(), name)
        except ConnectionLost:
            self._open = None
            raise
        except TimeoutError:
            await self.close()
            return None
        except BrokerError as error:
            await self.close()  # the broker has closed it
            if isinstance(error, TopologyRefused) and error.code == NOT_FOUND:
                self._absent.note(name, now, most_s)
                return absent
            return None
        self._absent.forget([name])
        return found

    async def _channel(self) -> AbstractChannel:
        connection = self._link.live
        if connection is None:
            raise ConnectionLost("no connection to ask about queues on")
        if self._open is None or self._open[0] is not connection:
            self._open = connection, await connection.channel()
        return self._open[1]


def _sum(found: Sequence[tuple[int, int] | None]) -> int | None:
    known = [one[0] for one in found if one is not None]
    return sum(known) if found and len(known) == len(found) else None
