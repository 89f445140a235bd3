"""Declare or check a queue, and the queues beside it, before it is consumed.

A queue is consumed only when all queues exist that `api.topology` names for it, so that a failed message always has a
queue to go to. What may be declared is said by `Queue.declare`:

* "ensure": the queue, those beside it, and the bindings. Each must be as the code says.
* "passive": the queue is taken as it is. Those beside it and the bindings are declared. A dead-letter queue that exists
  is taken as it is, and so is what this user may not declare. A retry queue that exists must move messages back.
* "off": nothing is declared. The queues beside it must exist.

A refusal is explained once: to find out what is at the broker, requests are made that it refuses, and it logs each
refusal as an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.connecting.library_errors import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED
from mxworker.amqp.consuming.declaring import Declaring
from mxworker.amqp.consuming.differences import Asked, breaks_retries
from mxworker.amqp.consuming.found import FoundQueue
from mxworker.amqp.consuming.probing import Probe
from mxworker.amqp.consuming.refusals import explained
from mxworker.api.queues import Queue
from mxworker.api.topology import Declaration, beside, declarations, quarantine
from mxworker.errors import BrokerError, ChannelLost, ConnectionLost, TopologyRefused

_REPAIR_DEADLINE_S = 10.0


async def ensure(
    declaring: Declaring, queue: Queue, retry_steps_ms: Sequence[int] = (), former: BrokerError | None = None
) -> None:
    """Declare or check `queue` and the queues beside it, as `queue.declare` asks.

    `former` is the error of the last attempt, if any: the same refusal is not explored again.
    Raises TopologyRefused, ChannelLost or ConnectionLost.
    """
    try:
        match queue.declare:
            case "ensure":
                await _declare_all(declaring, queue, retry_steps_ms)
            case "passive":
                await _declare_beside(declaring, queue, retry_steps_ms)
            case "off":
                for declaration in beside(queue, retry_steps_ms):
                    await declaring.check(declaration.name)
    except TopologyRefused as error:
        if isinstance(former, TopologyRefused) and former.reply == error.reply:
            raise former from error
        raise await _explored(declaring, queue, retry_steps_ms, error) from error


async def _declare_all(declaring: Declaring, queue: Queue, retry_steps_ms: Sequence[int]) -> None:
    for declaration in declarations(queue, retry_steps_ms):
        await declaring.declare(declaration.name, Asked(declaration.arguments))
    await _bind(declaring, queue)


async def _declare_beside(declaring: Declaring, queue: Queue, retry_steps_ms: Sequence[int]) -> None:
    """Check the queue first, so that nothing is declared beside a queue whose name is wrong."""
    await declaring.check(queue.name)
    may_declare = True
    for declaration in beside(queue, retry_steps_ms):
        if declaration.role == "retry" and may_declare:
            may_declare = await _declare_or_accept(declaring, declaration)
        else:
            await _declare_if_missing(declaring, declaration)
    await _bind(declaring, queue)


async def _declare_if_missing(declaring: Declaring, declaration: Declaration) -> None:
    try:
        await declaring.check(declaration.name)
    except TopologyRefused as error:
        if error.code != NOT_FOUND:
            raise
        await declaring.declare(declaration.name, Asked(declaration.arguments))


async def _declare_or_accept(declaring: Declaring, retry_queue: Declaration) -> bool:
    """Declare a retry queue, or accept one that moves messages back. Return whether this user may declare it."""
    try:
        await declaring.declare(retry_queue.name, Asked(retry_queue.arguments))
    except TopologyRefused as error:
        if error.code == ACCESS_REFUSED and await declaring.exists(retry_queue.name):
            return False
        if error.code != PRECONDITION_FAILED or breaks_retries((await _compared(declaring, retry_queue)).differences):
            raise
    return True


async def _bind(declaring: Declaring, queue: Queue) -> None:
    for exchange, routing_key in queue.bind:
        await declaring.bind(queue.name, exchange, routing_key)


async def _explored(
    declaring: Declaring, queue: Queue, retry_steps_ms: Sequence[int], error: TopologyRefused
) -> TopologyRefused:
    """Return the refusal with what is at the broker, and with what to do."""
    find = _compared if error.code == PRECONDITION_FAILED else _sought
    try:
        found = {each.name: await find(declaring, each) for each in declarations(queue, retry_steps_ms)}
    except BrokerError:
        found = {}
    return explained(queue, found, error)


async def _compared(declaring: Declaring, declaration: Declaration) -> FoundQueue:
    return await Probe(declaring.connection).queue(declaration.name, declaration.arguments)


async def _sought(declaring: Declaring, declaration: Declaration) -> FoundQueue:
    return FoundQueue(is_there=await declaring.exists(declaration.name))


async def repair(link: Link, queue: Queue, retry_steps_ms: Sequence[int]) -> None:
    """Declare or check `queue` and the queues beside it again, on a separate channel, within 10 s.

    Raises BrokerError.
    """
    await _within_deadline(link, queue, lambda declaring: ensure(declaring, queue, retry_steps_ms))


async def declare_quarantine(link: Link, queue: Queue) -> None:
    """Declare the quarantine queue of `queue` when it is missing, as `repair` does. Raises BrokerError."""
    await _within_deadline(link, queue, lambda declaring: _declare_if_missing(declaring, quarantine(queue)))


async def _within_deadline(link: Link, queue: Queue, act: Callable[[Declaring], Awaitable[None]]) -> None:
    connection = link.live
    if connection is None:
        raise ConnectionLost("no connection to declare a queue on")
    try:
        async with asyncio.timeout(_REPAIR_DEADLINE_S):
            async with Declaring(connection) as declaring:
                await act(declaring)
    except TimeoutError:
        raise ChannelLost(f"queue '{queue.name}': no answer within {_REPAIR_DEADLINE_S:g} s") from None
