"""How a delivery ends.

A handler returns a settlement or raises it; returning None means `Ack()`. The set is closed: what is not one of these
classes is not a settlement. They are ordinary exceptions, a fresh one per raise.
"""

from __future__ import annotations


class Settlement(Exception):
    """The root of the closed set; never used itself."""


class Ack(Settlement):
    """The delivery is done: the broker may forget it (basic.ack)."""


class Requeue(Settlement):
    """The delivery failed and shall be tried again at once (basic.reject, requeue=true).

    It comes back immediately, to this worker or another. Return it only for what is about to pass.
    """


class Reject(Settlement):
    """The delivery will never succeed: to the dead-letter queue (basic.reject, requeue=false).

    `reason` is for people, and shown in the log.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
