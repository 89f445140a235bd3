"""How a delivery ends.

A handler returns a settlement or raises it; returning None means `Ack()`. The set is closed: what is not one of these
classes is not a settlement. They are ordinary exceptions, a fresh one per raise. What one means for a delivery that has
been tried before is decided in `endings`.
"""

from __future__ import annotations

import math

from mxworker.api.failures import Failure
from mxworker.system.foreign_errors import reason_of


class Settlement(Exception):
    """The root of the closed set; never used itself."""

    failure: Failure | None = None
    """Why it came to this, where mxworker chose the settlement; None where the handler did."""


class Ack(Settlement):
    """The delivery is done: the broker may forget it (basic.ack)."""


class Requeue(Settlement):
    """The delivery failed and shall be tried again at once.

    A copy, which counts the attempt, goes to the end of its queue, for this worker or another. Each execution is an
    attempt, as with `Retry`: after the last one that the handler's `RetryPolicy` has it is a dead letter; with
    `retry=None` there are four. Nothing makes it wait, so return it only for what is about to pass. Where the queue is
    full and takes no copy, it is a `Retry`.

    With `single_active_consumer` and `concurrency=1`, where order is promised, the message stays in its place and is
    executed again before the next one. If the worker is stopped or paused meanwhile, the message goes back, and those
    attempts are not counted.
    """


class Retry(Settlement):
    """The delivery failed and shall be tried again later, within the bound of the handler's `RetryPolicy`.

    It waits `after` seconds, or longer: the first of the policy's delays that is long enough, at most the last. None
    leaves the choice to the policy. `reason` is for people, as in `Reject`. Raises ValueError for an `after` that is no
    time.
    """

    after_s: float | None = None
    reason: str = ""

    def __init__(self, after: float | None = None, reason: object = "") -> None:
        self.after_s = None if after is None else _seconds(after)
        self.reason = reason_of(reason)
        super().__init__(self.reason)


class Reject(Settlement):
    """The delivery will never succeed: to the dead-letter queue, with the facts.

    `reason` is for people, and shown in the log and in the dead letter. It may be anything that has a text, such as an
    exception; control characters in it are written out, and what is longer than 2000 characters is cut.
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
