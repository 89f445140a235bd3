"""How a delivery ends.

A handler returns a settlement or raises it; returning None means `Ack()`. The set is closed: what is not one of these
classes is not a settlement. They are ordinary exceptions, a fresh one per raise. What one means for a delivery that has
been tried before is decided in `endings`.
"""

from __future__ import annotations

import math

from mxworker.failures import Failure


class Settlement(Exception):
    """The root of the closed set; never used itself."""

    failure: Failure | None = None
    """Why it came to this, where mxworker chose the settlement; None where the handler did."""


class Ack(Settlement):
    """The delivery is done: the broker may forget it (basic.ack)."""


class Requeue(Settlement):
    """The delivery failed and shall be tried again at once (basic.reject, requeue=true).

    It comes back immediately, to this worker or another, as often as the handler's `RetryPolicy` has retries; then it
    is a dead letter. Where nobody counts redeliveries, on a classic queue or one that mxworker did not declare, only
    the first is immediate, and the next one is a `Retry`. Return it only for what is about to pass.

    Before RabbitMQ 4.3 the broker also counts each time that a worker gave the message back unprocessed, as in a drain
    or a pause: such a message is a dead letter after fewer requeues.
    """


class Retry(Settlement):
    """The delivery failed and shall be tried again later, within the bound of the handler's `RetryPolicy`.

    It waits `after` seconds, or longer: the first of the policy's delays that is long enough, at most the last. None
    leaves the choice to the policy. `reason` is for people. Raises ValueError for an `after` that is no time.
    """

    def __init__(self, after: float | None = None, reason: str = "") -> None:
        if after is not None and not 0 <= after < math.inf:
            raise ValueError(f"Retry(after=...) takes seconds from 0 on, not {after!r}")
        super().__init__(reason)
        self.after_s = after
        self.reason = reason


class Reject(Settlement):
    """The delivery will never succeed: to the dead-letter queue, with the facts.

    `reason` is for people, and shown in the log and in the dead letter.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
