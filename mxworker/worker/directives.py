"""Following the master's directives: paused queues, queues whose messages run alone, and the log level."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mxworker.amqp.consuming.consumer import Consumer
from mxworker.board.directives import Directives
from mxworker.worker.handling.handler_runner import HandlerRunner

REASON = "operator"
"""The reason of these pauses. A consumer keeps each reason apart, so that no resume ends another's pause."""


class DirectiveFollower:
    """Does in one worker what the directives say. Belongs to one event loop."""

    def __init__(
        self, directives: Directives, consumers: Sequence[Consumer], runners: Sequence[HandlerRunner] = ()
    ) -> None:
        """Prepare; nothing is done before `look`."""
        self._directives = directives
        self._consumers = consumers
        self._runners = runners
        self._paused: set[str] = set()

    def look(self) -> None:
        """Do what the directives say now. Costs next to nothing when they have not changed."""
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


def apply_log_level(directives: Directives) -> None:
    """Set the level of the root logger to that of the directives, if they have one."""
    root = logging.getLogger()
    if directives.log_level is not None and root.level != directives.log_level:
        root.setLevel(directives.log_level)
