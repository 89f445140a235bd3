"""One publish on its way: what is sent, where it stands, and what is known of its attempts so far.

The states from its acceptance to its outcome; `outbox` moves it through them:

    state      it waits for                                                      then
    --------   ---------------------------------------------------------------   ---------------------------
    NEW        nothing: it is being accepted                                     any but RETRY
    WINDOW     room among the `max_in_flight`                                    as NEW
    CHANNEL    its channel: until one is open, and takes more bytes              EXCHANGE, SAME_ID, or SENT
    EXCHANGE   the answer whether its exchange exists                            CHANNEL
    SAME_ID    the end of another publish with its message id on this channel    CHANNEL
    SENT       its confirm                                                       ENDED; RETRY when it is nacked or
                                                                                 lost; CHANNEL when it was not written
    RETRY      its backoff before the next attempt                               CHANNEL
    ENDED      nothing: the outcome is known

Each but ENDED ends at its deadline, wherever it stands. SENT again comes what may be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType

from mxworker.amqp.publishing.routes import Route
from mxworker.api.receipts import Receipt
from mxworker.errors import PublishError


class State(IntEnum):
    """Where a publish stands. The numbers mean nothing: they are found faster than other members of an enumeration."""

    NEW = 0
    WINDOW = 1
    CHANNEL = 2
    EXCHANGE = 3
    SAME_ID = 4
    SENT = 5
    RETRY = 6
    ENDED = 7


_FROM_CHANNEL = frozenset({State.EXCHANGE, State.SAME_ID, State.SENT, State.ENDED})
_TO_CHANNEL = frozenset({State.CHANNEL, State.ENDED})
TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.NEW: _FROM_CHANNEL | {State.WINDOW, State.CHANNEL},
        State.WINDOW: _FROM_CHANNEL | {State.CHANNEL},
        State.CHANNEL: _FROM_CHANNEL,
        State.EXCHANGE: _TO_CHANNEL,
        State.SAME_ID: _TO_CHANNEL,
        State.SENT: frozenset({State.ENDED, State.RETRY, State.CHANNEL}),
        State.RETRY: _TO_CHANNEL,
        State.ENDED: frozenset(),
    }
)
"""What may follow a state. What is missing is a bug."""


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
        "state",
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
        self.state = State.NEW
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
