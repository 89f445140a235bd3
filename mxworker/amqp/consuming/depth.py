"""Ask the broker how many messages are ready in a queue, and how many consumers it has.

RabbitMQ waits at most 250 ms for the process of a quorum queue. When that does not answer, it says 0 messages and 0
consumers (rabbit_fifo_client.erl, stat/1; rabbit_quorum_queue.erl, stat/2), so on a busy broker that may be no answer.
It gives the same answer at once while the queue has no leader. Only a process that consumes the queue can tell: the
true number of consumers is not 0 then.
"""

from __future__ import annotations

import time

from aio_pika.abc import AbstractChannel

from mxworker.amqp.connecting.library_errors import NOT_FOUND, library_errors
from mxworker.errors import ChannelLost, TopologyRefused

_BROKER_WAITS_S = 0.25
_EARLY_S = 0.01  # the clock of the broker and ours
_PATIENCE_S = 5.0
_LEAST_ASKED = 5  # this process may stand still meanwhile
_ROUND_TRIPS = 3  # for each answer: on a busy machine the quickest counts
_ENOUGH_ANSWERS = 2


async def depth(channel: AbstractChannel, name: str) -> tuple[int, int]:
    """Return what the broker says of queue `name`: the numbers of ready messages and of consumers.

    Raises TopologyRefused, ChannelLost or ConnectionLost.
    """
    underlay = await channel.get_underlay_channel()
    with library_errors(name):
        declared = await underlay.queue_declare(name, passive=True)
    return declared.message_count or 0, declared.consumer_count or 0


async def sure_depth(channel: AbstractChannel, name: str) -> tuple[int, int]:
    """Return what `depth` does, but ask again while an answer of nothing may come from a queue that does not answer.

    Such an answer is believed when it came sooner than the broker waits, or when all answers of this broker are late.
    That is so when the quickest about the queue took about as long as the quickest to requests that concern no queue.
    Raises as `depth`, and ChannelLost when no answer is believed within 5 s.
    """
    gives_up_at = time.monotonic() + _PATIENCE_S
    answers_s: list[float] = []
    round_trips_s: list[float] = []
    while len(answers_s) < _LEAST_ASKED or time.monotonic() < gives_up_at:
        asked_at = time.monotonic()
        found = await depth(channel, name)
        answers_s.append(time.monotonic() - asked_at)
        if found != (0, 0) or answers_s[-1] < _BROKER_WAITS_S - _EARLY_S:
            return found
        round_trips_s += [await _round_trip_s(channel, name) for _ in range(_ROUND_TRIPS)]
        if len(answers_s) >= _ENOUGH_ANSWERS and min(answers_s) - min(round_trips_s) < _BROKER_WAITS_S / 2:
            return found
    raise ChannelLost(
        f"queue '{name}': the broker does not know how many messages it holds, because the queue does not answer it.\n"
        "  Is the broker overloaded, or has the queue lost its leader?"
    )


async def depth_if_there(channel: AbstractChannel, name: str) -> int | None:
    """Return the number of ready messages of queue `name`, None when there is no such queue. Raises as `sure_depth`."""
    try:
        return (await sure_depth(channel, name))[0]
    except TopologyRefused as error:
        if error.code == NOT_FOUND:
            return None
        raise


async def _round_trip_s(channel: AbstractChannel, name: str) -> float:
    """Return how long a request takes that concerns no queue."""
    underlay = await channel.get_underlay_channel()
    asked_at = time.monotonic()
    with library_errors(name):
        await underlay.flow(active=True)
    return time.monotonic() - asked_at
