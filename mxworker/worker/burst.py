"""When a burst is over: nothing is ready in the queues, nothing waits for a retry, and nothing is held here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.errors import BrokerError
from mxworker.worker.handling.handler_runner import HandlerRunner

LOOK_EVERY_S = 0.25
_EMPTY_LOOKS = 2


async def until_empty(link: Link, consumers: Sequence[Consumer], runners: Sequence[HandlerRunner]) -> None:
    """Return when two looks in a row, 0.25 s apart, found nothing to do.

    A queue that is paused is never found empty: what it was paused for is still to be done.
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
    """Look at all queues, on a channel of its own; when the broker cannot be asked they are not known to be empty."""
    handlers = [runner.handler for runner in runners]
    retry_queues = [handler.queue.retry_name(step_ms) for handler in handlers for step_ms in handler.retry_steps_ms]
    connection = link.live
    if connection is None:
        return False
    try:
        channel = await connection.channel()
        try:
            depths = [await topology.depth(channel, handler.queue.name) for handler in handlers]
            retrying = [await topology.depth(channel, name) for name in retry_queues]
        finally:
            await connection.close_channel(channel)
    except BrokerError:
        return False
    # A quorum queue without a leader answers 0 and 0: it has at least our consumer when it can be believed.
    return all(ready == 0 and consumers > 0 for ready, consumers in depths) and all(ready == 0 for ready, _ in retrying)
