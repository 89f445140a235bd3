"""The settlements with which a delivery ends.

A handler returns a settlement or raises it; returning None means `Ack()`. The set is closed: an object of any other
class is no settlement. Settlements are ordinary exceptions; make a new one for each raise. `endings` decides what a
settlement means for a delivery that was tried before.
"""

from __future__ import annotations

import math

from mxworker.api.failures import Failure
from mxworker.system.foreign_errors import reason_of


class Settlement(Exception):
    """The root of the closed set. It is never used itself."""

    failure: Failure | None = None
    """The reason when mxworker chose the settlement; None when the handler did."""


class Ack(Settlement):
    """The delivery is done: the broker may forget it (basic.ack)."""


class Requeue(Settlement):
    """The delivery failed and is to be tried again at once.

    A copy, which counts the attempt, goes to the end of its queue, for any worker. Each execution is an attempt, as
    with `Retry`: after the last attempt of the handler's `RetryPolicy` the message is dead-lettered; with `retry=None`
    there are four attempts. The message does not wait, so use `Requeue` only for a fault that passes at once. When the
    queue is full and takes no copy, the message is retried as with `Retry`.

    With `single_active_consumer` and `concurrency=1`, which promise the order, the message stays in its place and is
    executed again before the next one. If the worker is stopped or paused meanwhile, the message goes back to the
    queue, and those attempts do not count.
    """


class Retry(Settlement):
    """The delivery failed and is to be tried again later, within the bound of the handler's `RetryPolicy`.

    The message waits for the shortest of the policy's delays that is at least `after` seconds, or else for the last
    one. With None the policy chooses the delay. `reason` is for people, as in `Reject`. Raises ValueError for an
    `after` that is no number of seconds from 0 on.
    """

    after_s: float | None = None
    reason: str = ""

    def __init__(self, after: float | None = None, reason: object = "") -> None:
        self.after_s = None if after is None else _seconds(after)
        self.reason = reason_of(reason)
        super().__init__(self.reason)


class Reject(Settlement):
    """The delivery will never succeed. It goes to the dead-letter queue, with headers about the failure.

    `reason` is for people, and is in the log and in the dead letter. It may be any object that has a text, such as an
    exception. Control characters in the text are escaped, and a text of more than 2000 characters is cut.
    """

    reason: str = ""

    def __init__(self, reason: object = "") -> None:
        self.reason = reason_of(reason)
        super().__init__(self.reason)


def _seconds(after: float) -> float:
    try:
        seconds = float(after)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"Retry(after=...) takes seconds from 0 on, not {after!r}")
    return seconds
