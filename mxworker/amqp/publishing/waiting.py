"""The publishes that were accepted and are not sent, in one queue for each cause of the wait.

A queue keeps the order in which publishes came. A publish can leave it from any position, so the length of a queue is
exactly the number of publishes that wait there.

Pure: `outbox` decides when a publish may be sent. Bound: the window's queue has one publish for each caller that waits;
all other queues together have at most the publisher's window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from mxworker.amqp.publishing.publishing import TRANSITIONS, Publishing, State
from mxworker.errors import InvariantError

Queue = OrderedDict[Publishing, None]


class Waiting:
    """The queues of one publisher."""

    def __init__(self, channels: int) -> None:
        """`channels` is the number of channels. Each has a queue, which keeps the order of its routes."""
        self.window: Queue = OrderedDict()
        self.channels: list[Queue] = [OrderedDict() for _ in range(channels)]
        self.exchanges: dict[str, Queue] = {}
        """By exchange. An exchange is a key from the first publish that waits for its check until `answered`."""
        self.ids: dict[tuple[int, bytes], Queue] = {}
        """By the number of the channel and the message id. Empty queues are removed."""
        self.retries: Queue = OrderedDict()

    def add(self, publishing: Publishing, state: State) -> None:
        """Append a publish, which is in no queue yet, to the queue of a state."""
        _move(publishing, state)
        self._queue(publishing)[publishing] = None

    def add_first(self, publishings: Iterable[Publishing]) -> None:
        """Put publishes into the queues of their channels, in the order given, before those that wait there already."""
        for publishing in reversed(list(publishings)):
            self.remove(publishing)
            _move(publishing, State.CHANNEL)
            queue = self.channels[publishing.route.channel]
            queue[publishing] = None
            queue.move_to_end(publishing, last=False)

    def remove(self, publishing: Publishing) -> None:
        """Take a publish out of its queue, if it is in one."""
        if publishing.state in _QUEUED:
            queue = self._queue(publishing)
            queue.pop(publishing, None)
            if publishing.state is State.SAME_ID and not queue:
                del self.ids[_id_key(publishing)]

    def answered(self, exchange: str) -> None:
        """Remove an exchange for which no publish waits any more."""
        waiting = self.exchanges.pop(exchange)
        assert not waiting

    def counts(self, has_channel: Iterable[bool]) -> dict[str, int]:
        """Return the numbers of waiting publishes by cause. `has_channel` has, for each number, whether it is open."""
        connection = room = 0
        for is_open, queue in zip(has_channel, self.channels, strict=True):
            if is_open:
                room += len(queue)
            else:
                connection += len(queue)
        return {
            "window": len(self.window),
            "connection": connection,
            "room": room,
            "same id": sum(map(len, self.ids.values())),
            "exchange": sum(map(len, self.exchanges.values())),
            "retry": len(self.retries),
        }

    def _queue(self, publishing: Publishing) -> Queue:
        state = publishing.state
        if state is State.CHANNEL:
            return self.channels[publishing.route.channel]
        if state is State.WINDOW:
            return self.window
        if state is State.EXCHANGE:
            return self.exchanges.setdefault(publishing.route.exchange, OrderedDict())
        if state is State.SAME_ID:
            return self.ids.setdefault(_id_key(publishing), OrderedDict())
        assert state is State.RETRY
        return self.retries

    def with_id_of(self, publishing: Publishing) -> Queue:
        """Return the publishes that wait for the message id of this publish on its channel."""
        return self.ids.get(_id_key(publishing), _NOBODY)


_QUEUED = frozenset({State.WINDOW, State.CHANNEL, State.EXCHANGE, State.SAME_ID, State.RETRY})
_NOBODY: Queue = OrderedDict()


def take_first(queue: Queue) -> Publishing:
    """Remove the first publish of a queue, and return it."""
    return queue.popitem(last=False)[0]


def _id_key(publishing: Publishing) -> tuple[int, bytes]:
    return publishing.route.channel, publishing.message_id


def _move(publishing: Publishing, state: State) -> None:
    if state not in TRANSITIONS[publishing.state]:
        raise InvariantError(f"a publish cannot go from {publishing.state.name} to {state.name}")
    publishing.state = state
