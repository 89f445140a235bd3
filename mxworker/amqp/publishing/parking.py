"""The publishes that were accepted and cannot be sent now, each in the order of its lane.

One lane does not wait for another: a channel that cannot be opened again holds up its own routes alone.

Pure: who sends is asked, one publish after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mxworker.amqp.publishing.publishing import Publishing, Stage


class Parking:
    """The parked publishes of one publisher.

    Bound: for each lane twice those of the window, and what ended there since `forget_ended` was called last.
    """

    def __init__(self, lanes: int, take: Callable[[Publishing], bool]) -> None:
        """`take` sends a publish, or says that it cannot now; it ends none."""
        self._lanes: list[deque[Publishing]] = [deque() for _ in range(lanes)]
        self._take = take

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes)

    def park(self, publishing: Publishing) -> None:
        """Send a publish if nothing of its lane is parked and it can be sent; else let it wait there."""
        lane = self._lanes[publishing.route.channel]
        if lane or not self._take(publishing):
            lane.append(publishing)

    def put_back(self, publishings: Iterable[Publishing]) -> None:
        """Let publishes that were taken, and could not be sent, try again, before those that came later."""
        for publishing in reversed(list(publishings)):
            if publishing.stage is Stage.PARKED:
                self._lanes[publishing.route.channel].appendleft(publishing)

    def pump(self, now: float) -> None:
        """Send what is parked, lane by lane, for as long as it is taken; what is past its deadline is not sent."""
        for lane in self._lanes:
            self._pump_lane(lane, now)

    def _pump_lane(self, lane: deque[Publishing], now: float) -> None:
        while lane:
            publishing = lane.popleft()
            is_due = publishing.stage is Stage.PARKED and publishing.deadline > now
            if is_due and not self._take(publishing):
                lane.appendleft(publishing)
                return

    def forget_ended(self, live: int) -> None:
        """Forget what ended while it was parked, when that is more than the `live` ones there are at most."""
        for lane in self._lanes:
            drop_ended(lane, live)


def drop_ended(queue: deque[Publishing], live: int) -> None:
    """Forget what ended in front of a queue, and everywhere once it is more than the `live` ones, at most, and as many.

    So each costs a constant on average, wherever it stood.
    """
    while queue and queue[0].stage is Stage.ENDED:
        queue.popleft()
    if len(queue) > 2 * live:
        rest = [publishing for publishing in queue if publishing.stage is not Stage.ENDED]
        queue.clear()
        queue.extend(rest)
