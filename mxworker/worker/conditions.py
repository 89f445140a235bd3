"""What the worker tells on the board of its connections and queues: their states, and the reasons of bad ones."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mxworker.amqp.connecting.connection import Link
from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.board.conditions import LINKS, LinkState, QueueState
from mxworker.board.slot import BoardSlot


class ConditionReport:
    """Writes the conditions of one worker. Belongs to one event loop."""

    def __init__(self, slot: BoardSlot, pool: Pool, consumers: Sequence[Consumer]) -> None:
        """`consumers`, in the order of the directory of handlers, may be filled later."""
        self._slot = slot
        self._links = (pool.consume_link, pool.publish_link)
        self._consumers = consumers
        self._written: dict[int, tuple[int, str]] = {}  # one entry for each place
        self._since_ns: dict[int, int] = {}

    def look(self) -> None:
        """Write what has changed. Call after each change of a connection or queue, and at each heartbeat."""
        for place, link in enumerate(self._links):
            self._tell(place, *link_condition(link))
        for index, consumer in enumerate(self._consumers):
            self._tell(len(LINKS) + index, *queue_condition(consumer))

    def _tell(self, place: int, state: int, why: str) -> None:
        former = self._written.get(place)
        if former == (state, why):
            return
        if former is None or former[0] != state:
            self._since_ns[place] = time.monotonic_ns()
        self._written[place] = (state, why)
        self._slot.conditions.write(place, state, why, self._since_ns[place])


def link_condition(link: Link) -> tuple[LinkState, str]:
    """Return the state of a connection, and its broker or what is wrong with it."""
    connection = link.live
    if connection is None:
        return LinkState.DOWN, str(link.last_error or "not connected yet")
    if connection.plane.blocked_reason is not None:
        return LinkState.BLOCKED, connection.plane.blocked_reason or "the broker gives no reason"
    return LinkState.UP, f"{connection.server} at {connection.url.place}"


def queue_condition(consumer: Consumer) -> tuple[QueueState, str]:
    """Return whether a queue is consumed, and why not."""
    if consumer.trouble is not None:
        return QueueState.STOPPED, str(consumer.trouble)
    if not consumer.is_as_wanted:
        return QueueState.WAITING, str(consumer.last_error or "the broker has not answered its declaration yet")
    if consumer.pause_reasons:
        return QueueState.PAUSED, ", ".join(sorted(consumer.pause_reasons))
    return QueueState.CONSUMED, ""
