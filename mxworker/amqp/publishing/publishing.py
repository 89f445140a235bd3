"""One publish on its way, from acceptance to its outcome: what is sent, and what became of it so far.

Stages: WAITING for room in the window, PARKED until a channel can take it (none is up, the broker is blocked, a retry
rests), SENT and awaiting its confirm, ENDED.

    WAITING -> PARKED -> SENT -> ENDED
                  ^        |
                  +--------+  nacked or lost, and tried again
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from mxworker.amqp.publishing.routes import Route
from mxworker.api.receipts import Receipt
from mxworker.errors import PublishError, PublishOverflow, PublishUnconfirmed


class Stage(Enum):
    """Where a publish is."""

    WAITING = auto()
    PARKED = auto()
    SENT = auto()
    ENDED = auto()


class Publishing:
    """A message with its route, its deadline and its receipt. `properties` and `message_id` are as on the wire."""

    __slots__ = (
        "attempts",
        "body",
        "deadline",
        "doubt",
        "give_up",
        "message_id",
        "properties",
        "receipt",
        "refusal",
        "return_reason",
        "route",
        "stage",
        "tag",
        "timer",
    )

    def __init__(self, route: Route, message_id: bytes, properties: bytes, body: bytes, deadline: float) -> None:
        """`deadline` is a loop time, over all attempts."""
        self.route = route
        self.message_id = message_id
        self.properties = properties
        self.body = body
        self.deadline = deadline
        self.receipt = Receipt(message_id.decode("utf-8", "surrogateescape"), may_be_unrouted=not route.mandatory)
        self.stage = Stage.WAITING
        self.attempts = 0
        self.give_up: Callable[[Publishing], None] | None = None
        """How to tell the channel of the last attempt that its confirm is no longer waited for."""
        self.tag = 0
        """The delivery tag of the last attempt, on that channel."""
        self.return_reason: str | None = None
        """Why the broker returned it, once it did; its confirm follows."""
        self.doubt: str | None = None
        """Why the fate of an earlier attempt is unknown. Once set, no later refusal makes the whole refused."""
        self.refusal: PublishError | None = None
        """How the last attempt was refused."""
        self.timer: asyncio.TimerHandle | None = None
        """What ends it at the deadline, when its timeout is not the publisher's."""

    def verdict(self, why_unsent: Callable[[], str]) -> PublishError:
        """Return the error to end with now: the truth about all attempts. `why_unsent` is asked if nothing was sent."""
        if self.doubt is not None:
            return PublishUnconfirmed(f"publish to {self.route}: {self.doubt}; it may be in the queue, or not")
        return self.refusal or PublishOverflow(f"publish to {self.route} was not sent: {why_unsent()}")
