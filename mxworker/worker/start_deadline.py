"""How long a first start may take.

`--connect-wait` bounds the time without progress. A first connection is progress, and so is each queue that is consumed
for the first time. While there is a connection and a queue whose declaration is not answered yet, the time is at least
that which a queue has for its answer, however short `--connect-wait` is.

Pure: instants are arguments.
"""

from __future__ import annotations

TELL_EVERY_S = 5.0
_ANSWER_MARGIN_S = 1.0  # so that a queue reports first that its time is over


class StartDeadline:
    """The deadline of one start, which moves with its progress."""

    def __init__(self, wait_s: float, answer_s: float, now: float) -> None:
        """Begin it. `wait_s` is the time for a connection, `answer_s` the time for an answer about a queue."""
        self.gives_up_at = now + wait_s
        """The instant at which the start has failed, if nothing changes."""
        self._was_connected = False
        self._wait_s = wait_s
        self._answer_s = answer_s + _ANSWER_MARGIN_S
        self._progress_at = now
        self._consumed = 0
        self._tell_at = now + TELL_EVERY_S

    def look(self, *, was_connected: bool, is_connected: bool, consumed: int, unanswered: int, now: float) -> bool:
        """Take in the progress, and return whether the start has failed.

        `was_connected` is whether there has ever been a connection, `is_connected` whether there is one now. `consumed`
        is the number of queues that are consumed, `unanswered` of those that wait for the broker's answer.
        """
        if consumed > self._consumed or was_connected > self._was_connected:
            self._progress_at = now
        self._consumed = max(self._consumed, consumed)
        self._was_connected = was_connected
        is_asking = is_connected and unanswered > 0
        self.gives_up_at = self._progress_at + (max(self._wait_s, self._answer_s) if is_asking else self._wait_s)
        return now >= self.gives_up_at

    def wakes_at(self, now: float, at_least_s: float) -> float:
        """Return when to call `look` again although nothing has changed: in `at_least_s` or later."""
        return max(min(self.gives_up_at, self._tell_at), now + at_least_s)

    def has_to_tell(self, now: float) -> bool:
        """Whether it is time to log the progress; true once every 5 s."""
        if now < self._tell_at:
            return False
        self._tell_at = now + TELL_EVERY_S
        return True
