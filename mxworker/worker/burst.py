"""When a burst is over: no message is ready, none waits for a retry, and this process holds none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.depth import sure_depth
from mxworker.errors import BrokerError
from mxworker.worker.handling.handler_runner import HandlerRunner

LOOK_EVERY_S = 0.25
_EMPTY_LOOKS = 4  # the broker may take a while to move a message from a retry queue, and counts it in neither meanwhile


async def until_empty(link: Link, consumers: Sequence[Consumer], runners: Sequence[HandlerRunner]) -> None:
    """Return when four looks in a row, 0.25 s apart, found nothing to do.

    A paused queue never counts as empty: its messages are still to be handled.
    """
    empty_looks = 0
    while empty_looks < _EMPTY_LOOKS:
        await asyncio.sleep(LOOK_EVERY_S)
        is_empty = (
            _are_unoccupied(consumers, runners)
            and await _are_empty(link, runners)
            and _are_unoccupied(consumers, runners)
        )
        empty_looks = empty_looks + 1 if is_empty else 0


def _are_unoccupied(consumers: Sequence[Consumer], runners: Sequence[HandlerRunner]) -> bool:
    return all(runner.is_idle for runner in runners) and all(consumer.is_consuming for consumer in consumers)


async def _are_empty(link: Link, runners: Sequence[HandlerRunner]) -> bool:
    """Ask the broker about all queues, on a channel of its own; when it does not answer, they do not count as empty."""
    handlers = [runner.handler for runner in runners]
    retry_queues = [handler.queue.retry_name(step_ms) for handler in handlers for step_ms in handler.retry_steps_ms]
    connection = link.live
    if connection is None:
        return False
    try:
        channel = await connection.channel()
        try:
            retrying = [await sure_depth(channel, name) for name in retry_queues]
            depths = [await sure_depth(channel, handler.queue.name) for handler in handlers]
        finally:
            await connection.close_channel(channel)
    except BrokerError:
        return False
    # A quorum queue without a leader reports no messages and no consumers. A true answer has at least our consumer.
    return all(ready == 0 and consumers > 0 for ready, consumers in depths) and all(ready == 0 for ready, _ in retrying)
