"""Make sure that a queue is what the code says, before it is consumed.

The arguments are frozen: they never depend on the broker's version, or an upgrade would be answered with a 406 (see
`handlers.Queue.declared_arguments`). The dead-letter queue comes first, so that there is no moment in which a rejected
message has nowhere to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aio_pika.abc import AbstractChannel

from mxworker.amqp.translate import library_errors
from mxworker.queues import SENDABLE_NAME, Queue

_LIBRARY_NAME_CHARACTERS = 127
_DEAD_LETTER_ARGUMENTS: Mapping[str, Any] = {"x-queue-type": "quorum"}


async def ensure(channel: AbstractChannel, queue: Queue) -> None:
    """Declare or check `queue` and its dead-letter queue, as `queue.declare` asks.

    Raises TopologyRefused, ChannelLost or ConnectionLost; the channel is of no use afterwards.
    """
    if queue.dead_letter:
        await _declare(channel, queue.dead_letter_name, queue, _DEAD_LETTER_ARGUMENTS)
    if queue.declare != "off":
        await _declare(channel, queue.name, queue, queue.declared_arguments())
    if queue.declare == "ensure":
        underlay = await channel.get_underlay_channel()
        for exchange, routing_key in queue.bind:
            with library_errors(queue.name):
                await underlay.queue_bind(queue.name, exchange, routing_key)


async def depth(channel: AbstractChannel, name: str) -> tuple[int, int]:
    """Return how many messages of queue `name` await delivery, and how many consumers it has. Raises as `ensure`."""
    underlay = await channel.get_underlay_channel()
    with library_errors(name):
        declared = await underlay.queue_declare(name, passive=True)
    return declared.message_count or 0, declared.consumer_count or 0


async def find_exchange(channel: AbstractChannel, exchange: str) -> None:
    """Check that an exchange exists. Raises TopologyRefused when it does not, ChannelLost or ConnectionLost.

    One whose name the library cannot send is taken for existing.
    """
    if SENDABLE_NAME.fullmatch(exchange) and len(exchange) <= _LIBRARY_NAME_CHARACTERS:
        underlay = await channel.get_underlay_channel()
        with library_errors():
            await underlay.exchange_declare(exchange, passive=True)


async def _declare(channel: AbstractChannel, name: str, queue: Queue, arguments: Mapping[str, Any]) -> None:
    underlay = await channel.get_underlay_channel()
    with library_errors(name):
        if queue.declare == "ensure":
            await underlay.queue_declare(name, durable=True, arguments=dict(arguments))
        else:
            await underlay.queue_declare(name, passive=True)
