"""Ask the broker once how many messages are ready in a queue, and how many consumers it has.

RabbitMQ waits at most 250 ms for the process of a quorum queue, and answers 0 messages and 0 consumers when that does
not answer (rabbit_fifo_client.erl, stat/1; rabbit_quorum_queue.erl, stat/2): of a busy broker that is no answer. So
such an answer is believed only when it came sooner, or over a way that is that slow itself. Else it is asked again.
"""

from __future__ import annotations

import time

import aiormq.abc
from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.library_errors import NOT_FOUND, library_errors
from mxworker.errors import ChannelLost, TopologyRefused

_BROKER_WAITS_S = 0.25
_EARLY_S = 0.01  # clocks of two processes
_MOST_ASKED = 20
_SLOW_WAY_S = 0.1
_TIMED_WAYS = 4


async def depth(channel: AbstractChannel, name: str) -> tuple[int, int]:
    """Return the numbers of ready messages and of consumers of queue `name`.

    Raises TopologyRefused, ConnectionLost, or ChannelLost, also when the broker has not known it for five seconds.
    """
    underlay = await channel.get_underlay_channel()
    with library_errors(name):
        return await counts(underlay, name)


async def depth_if_there(channel: AbstractChannel, name: str) -> int | None:
    """Return the number of ready messages of queue `name`, None when there is no such queue. Raises as `depth`."""
    try:
        return (await depth(channel, name))[0]
    except TopologyRefused as error:
        if error.code == NOT_FOUND:
            return None
        raise


async def counts(channel: aiormq.abc.AbstractChannel, name: str) -> tuple[int, int]:
    """Return what `depth` returns, on a channel of the library. Raises ChannelLost, or what the library raises."""
    ways_s: list[float] = []
    for _ in range(_MOST_ASKED):
        asked_at = time.monotonic()
        declared = await channel.queue_declare(name, passive=True)
        found = declared.message_count or 0, declared.consumer_count or 0
        answered_at = time.monotonic()
        if found != (0, 0) or answered_at - asked_at < _BROKER_WAITS_S - _EARLY_S:
            return found
        await channel.flow(active=True)  # asks for nothing: the time of an answer that no queue has to give
        ways_s.append(time.monotonic() - answered_at)
        if len(ways_s) >= _TIMED_WAYS and min(ways_s) >= _SLOW_WAY_S:
            return found
    raise ChannelLost(
        f"queue '{name}': the broker does not know how many messages it holds, because the queue does not answer it.\n"
        "  Is the broker overloaded, or has the queue lost its leader?"
    )
