"""The deadlines of publishes. One timer serves all publishes that have the publisher's timeout.

An event loop that was blocked runs its timers before it reads confirms from the socket. So a timer that fires much too
late waits a little and checks again before any publish is late.

This module knows nothing about the reasons for which publishes wait, and about the outcome of late publishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from mxworker.amqp.publishing.publishing import Publishing

_OVERSLEPT_S = 0.5
_SECOND_LOOK_S = 0.05


class Deadlines:
    """The deadlines of one publisher's publishes. Belongs to one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publishings: Iterable[Publishing],
        end_late: Callable[[list[Publishing]], None],
    ) -> None:
        """Watch none yet. `publishings` have no outcome, in the order of acceptance; `end_late` ends late ones."""
        self._loop = loop
        self._publishings = publishings
        self._end_late = end_late
        self._timer: asyncio.TimerHandle | None = None

    def start(self, publishing: Publishing, has_own_timeout: bool) -> None:
        """Watch the deadline of a publish, which has a timeout of its own or the publisher's."""
        if has_own_timeout:
            publishing.timer = self._loop.call_at(publishing.deadline, self._expire_one, publishing)
        elif self._timer is None:
            self._timer = self._loop.call_at(publishing.deadline, self._expire)

    def _expire(self, is_second_look: bool = False) -> None:
        """End the publishes that are late, and set the timer for the next deadline."""
        self._timer = None
        now = self._loop.time()
        late = []
        for publishing in self._publishings:  # in the order of their deadlines, but for those with their own timer
            if publishing.timer is not None:
                continue
            if publishing.deadline > now:
                self._timer = self._loop.call_at(publishing.deadline, self._expire)
                break
            late.append(publishing)
        if late and not is_second_look and now - late[0].deadline > _OVERSLEPT_S:
            self.stop()
            self._timer = self._loop.call_later(_SECOND_LOOK_S, self._expire, True)
        else:
            self._end_late(late)

    def _expire_one(self, publishing: Publishing, is_second_look: bool = False) -> None:
        if not is_second_look and self._loop.time() - publishing.deadline > _OVERSLEPT_S:
            publishing.timer = self._loop.call_later(_SECOND_LOOK_S, self._expire_one, publishing, True)
        else:
            self._end_late([publishing])

    def stop(self) -> None:
        """Stop the timer of the publishes that have the publisher's timeout."""
        if self._timer is not None:
            self._timer.cancel()
