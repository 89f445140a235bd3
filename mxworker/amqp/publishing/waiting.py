"""The publishes that were accepted and are not sent, each in the queue of what it waits for.

A queue keeps the order in which publishes came to it, and each leaves it wherever it stands: so the length of a queue
is how many wait there, exactly.

Pure: when a publish may go on is decided by the `outbox`. Bound: in the window's queue stands one for each caller who
waits, in all others together the publisher's window.
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
        """`channels` is how many there are; a queue for each keeps the order of its routes."""
        self.window: Queue = OrderedDict()
        self.channels: list[Queue] = [OrderedDict() for _ in range(channels)]
        self.exchanges: dict[str, Queue] = {}
        """An exchange is a key from the first publish that waits for the answer to the last, and until `answered`."""
        self.ids: dict[tuple[int, bytes], Queue] = {}
        """The keys are the number of a channel and the message id; those for which nobody waits are not kept."""
        self.retries: Queue = OrderedDict()

    def add(self, publishing: Publishing, state: State) -> None:
        """Let a publish wait, behind the others that wait for the same; it stands in no queue yet."""
        _move(publishing, state)
        self._queue(publishing)[publishing] = None

    def add_first(self, publishings: Iterable[Publishing]) -> None:
        """Let publishes wait for their channels, in the order given and before those that wait there already."""
        for publishing in reversed(list(publishings)):
            self.remove(publishing)
            _move(publishing, State.CHANNEL)
            queue = self.channels[publishing.route.channel]
            queue[publishing] = None
            queue.move_to_end(publishing, last=False)

    def remove(self, publishing: Publishing) -> None:
        """Take a publish out of the queue in which it stands, if any."""
        if publishing.state in _QUEUED:
            queue = self._queue(publishing)
            queue.pop(publishing, None)
            if publishing.state is State.SAME_ID and not queue:
                del self.ids[_id_key(publishing)]

    def answered(self, exchange: str) -> None:
        """Forget an exchange for which nobody waits any more."""
        waiting = self.exchanges.pop(exchange)
        assert not waiting

    def counts(self, has_channel: Iterable[bool]) -> dict[str, int]:
        """Return how many wait for what. `has_channel` says of each number whether there is a channel."""
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
        """Return those that wait for the end of this publish, or of another with its message id on its channel."""
        return self.ids.get(_id_key(publishing), _NOBODY)


_QUEUED = frozenset({State.WINDOW, State.CHANNEL, State.EXCHANGE, State.SAME_ID, State.RETRY})
_NOBODY: Queue = OrderedDict()


def take_first(queue: Queue) -> Publishing:
    """Take the publish out of a queue that came first."""
    return queue.popitem(last=False)[0]


def _id_key(publishing: Publishing) -> tuple[int, bytes]:
    return publishing.route.channel, publishing.message_id


def _move(publishing: Publishing, state: State) -> None:
    if state not in TRANSITIONS[publishing.state]:
        raise InvariantError(f"a publish cannot go from {publishing.state.name} to {state.name}")
    publishing.state = state
