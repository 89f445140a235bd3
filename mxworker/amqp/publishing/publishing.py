"""One publish: its message, its state, and the results of its attempts so far.

`outbox` moves a publish through these states, from acceptance to outcome:

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

A publish in any state but ENDED ends at its deadline.
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
    """The state of a publish. The numbers mean nothing: an IntEnum is faster than an Enum as a key."""

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
"""The states that may follow each state. A change that is missing here is a bug."""


class Publishing:
    """A message with its route, its deadline and its receipt. `properties` and `message_id` are as on the wire."""

    __slots__ = (
        "accepted_at",
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

    def __init__(
        self,
        route: Route,
        message_id: bytes,
        properties: bytes,
        body: bytes,
        deadline: float,
        accepted_at: float = 0.0,
    ) -> None:
        """`deadline` and `accepted_at` are loop times; the deadline is that of all attempts."""
        self.accepted_at = accepted_at
        self.route = route
        self.message_id = message_id
        self.properties = properties
        self.body = body
        self.deadline = deadline
        self.receipt = Receipt(message_id.decode("utf-8", "surrogateescape"), may_be_unrouted=not route.mandatory)
        self.state = State.NEW
        self.attempts = 0
        self.give_up: Callable[[Publishing], None] | None = None
        """A function of the last attempt's channel: it ends the wait for the confirm."""
        self.tag = 0
        """The delivery tag of the last attempt, on its channel."""
        self.return_reason: str | None = None
        """The reason for which the broker returned it. Its confirm follows."""
        self.doubt: str | None = None
        """The reason why the fate of an attempt is unknown. Once it is set, a later refusal does not count."""
        self.refusal: PublishError | None = None
        """The error of the last attempt."""
        self.timer: asyncio.TimerHandle | None = None
        """The timer for its deadline, when its timeout is not the publisher's."""
