"""Following the directives: which queues are paused, or run alone, and from which level on is logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mxworker.amqp.consuming.consumer import Consumer
from mxworker.board.directives import Directives
from mxworker.worker.handling.handler_runner import HandlerRunner

REASON = "operator"
"""Why a consumer pauses then; apart from other reasons, so that none takes back another."""


class DirectiveFollower:
    """What a worker does about the directives. Belongs to one event loop."""

    def __init__(
        self, orders: Directives, consumers: Sequence[Consumer], runners: Sequence[HandlerRunner] = ()
    ) -> None:
        """Nothing is done before `look`."""
        self._directives = orders
        self._consumers = consumers
        self._runners = runners
        self._paused: set[str] = set()

    def look(self) -> None:
        """Do what the orders say now. Costs next to nothing when they say what they said before."""
        apply_log_level(self._directives)
        alone = self._directives.alone_queues
        for runner in self._runners:
            runner.run_alone(runner.handler.queue.name in alone, self._directives.alone_rests)
        for consumer in self._consumers:
            queue = consumer.queue.name
            is_wanted = self._directives.wants_paused(queue)
            if is_wanted and queue not in self._paused:
                self._paused.add(queue)
                consumer.pause(REASON)
            elif not is_wanted and queue in self._paused:
                self._paused.remove(queue)
                consumer.resume(REASON)
                consumer.try_again()


def apply_log_level(orders: Directives) -> None:
    """Log from the level that the orders say, if they say one."""
    root = logging.getLogger()
    if orders.log_level is not None and root.level != orders.log_level:
        root.setLevel(orders.log_level)
