"""Declare or check a queue, and the queues beside it, before it is consumed.

`api.topology` has the queues and their arguments. A queue `q` has `q.dlq` beside it for dead letters, and one
`q.retry.<ms>` for each delay of its retries, from which the broker moves messages back to `q` after that delay. `q` is
consumed only when all of them exist, so that a failed message always has a queue to go to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import aiormq.exceptions
from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.connecting.library_errors import library_errors
from mxworker.api.queues import Queue
from mxworker.api.topology import Declaration, declarations, quarantine
from mxworker.errors import ChannelLost, ConnectionLost, TopologyRefused

_REPAIR_DEADLINE_S = 10.0


async def ensure(channel: AbstractChannel, queue: Queue, retry_steps_ms: Sequence[int] = ()) -> None:
    """Declare or check `queue` and the queues beside it, as `queue.declare` asks.

    Raises TopologyRefused, ChannelLost or ConnectionLost; the channel cannot be used afterwards.
    """
    for declaration in declarations(queue, retry_steps_ms):
        await _declare(channel, declaration)
    if queue.declare == "ensure":
        underlay = await channel.get_underlay_channel()
        for exchange, routing_key in queue.bind:
            with library_errors(queue.name):
                await underlay.queue_bind(queue.name, exchange, routing_key)


async def repair(link: Link, queue: Queue, retry_steps_ms: Sequence[int]) -> None:
    """Declare or check `queue` and the queues beside it again, on a separate channel, within 10 s.

    Raises BrokerError.
    """
    await _on_a_channel(link, queue, lambda channel: ensure(channel, queue, retry_steps_ms))


async def declare_quarantine(link: Link, queue: Queue) -> None:
    """Declare or check the quarantine queue of `queue`, as `repair` does for the other queues. Raises BrokerError."""
    await _on_a_channel(link, queue, lambda channel: _declare(channel, quarantine(queue)))


async def _on_a_channel(link: Link, queue: Queue, act: Callable[[AbstractChannel], Awaitable[None]]) -> None:
    connection = link.live
    if connection is None:
        raise ConnectionLost("no connection to declare a queue on")
    try:
        async with asyncio.timeout(_REPAIR_DEADLINE_S):
            channel = await connection.channel()
            try:
                await act(channel)
            finally:
                await connection.close_channel(channel)
    except TimeoutError:
        raise ChannelLost(f"queue '{queue.name}': no answer within {_REPAIR_DEADLINE_S:g} s") from None


async def depth(channel: AbstractChannel, name: str) -> tuple[int, int]:
    """Return the numbers of ready messages and of consumers of queue `name`. Raises as `ensure`."""
    underlay = await channel.get_underlay_channel()
    with library_errors(name):
        declared = await underlay.queue_declare(name, passive=True)
    return declared.message_count or 0, declared.consumer_count or 0


async def depth_if_there(channel: AbstractChannel, name: str) -> int | None:
    """Return the number of ready messages of queue `name`, None when there is no such queue. Raises as `ensure`."""
    try:
        return (await depth(channel, name))[0]
    except TopologyRefused as error:
        if isinstance(error.__cause__, aiormq.exceptions.ChannelNotFoundEntity):
            return None
        raise


async def _declare(channel: AbstractChannel, declaration: Declaration) -> None:
    if declaration.declare == "off":
        return
    underlay = await channel.get_underlay_channel()
    with library_errors(declaration.name):
        if declaration.declare == "ensure":
            await underlay.queue_declare(declaration.name, durable=True, arguments=dict(declaration.arguments))
        else:
            await underlay.queue_declare(declaration.name, passive=True)
