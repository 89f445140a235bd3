"""What becomes of every publish between its acceptance and its outcome: window, waiting, retries, deadlines.

    accept -> WAITING while the window is full -> PARKED until a lane takes it -> SENT -> confirmed: ENDED
                                                     ^                             nacked, lost: again, with backoff
                                                     +-----------------------------+

Must not know: channels, connections, how a body is encoded.

Invariants:
- `in_flight` publishes are PARKED or SENT, never more than `max_in_flight`; those WAITING have a caller who waits.
- Every accepted publish ends exactly once, at its deadline at the latest.
- An attempt whose fate is unknown makes the whole unknown, whatever becomes of later attempts, unless one is confirmed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from mxworker.amqp.publishing.parking import Parking, drop_ended
from mxworker.amqp.publishing.publishing import Publishing, Stage
from mxworker.backoff import PUBLISH_RETRY
from mxworker.config import PublisherSettings
from mxworker.errors import PublishError, PublishNacked, Unroutable

_TOO_LATE = "no confirm came in time"
# A loop that was blocked finds confirms in the socket only after the timers: one more turn before it judges.
_OVERSLEPT_S = 0.5
_SECOND_LOOK_S = 0.05


class Taker(Protocol):
    """Who sends: the publisher's lanes."""

    def take(self, publishing: Publishing) -> bool:
        """Send a publish, or see to it that it is put back later; False when nothing can be sent now. Ends none."""

    def give_up(self, publishing: Publishing) -> None:
        """Wait no longer for the confirm of a publish that was sent."""

    @property
    def has_id_waiters(self) -> bool:
        """Whether a publish that was taken waits for a message id."""

    def free_id(self, message_id: bytes) -> None:
        """Put back a publish that waits for this message id: one that had it has ended, or left its channel."""

    def why_not(self) -> str:
        """Say why nothing can be sent now."""


class Outbox:
    """The publishes of one publisher that have no outcome yet. Belongs to one event loop."""

    def __init__(self, settings: PublisherSettings, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        """Call `attach` before the first publish."""
        self.in_flight = 0
        """How many accepted publishes have no outcome yet."""
        self.queued = 0
        """How many publishes were asked for since the start; each is one of those that follow, or in flight."""
        self.confirmed_count = 0
        self.failed = 0
        self.dropped = 0
        self._settings = settings
        self._loop = loop
        self._rng = rng
        # Bound: twice those that wait, one per caller; what has ended is forgotten when it is the greater part.
        self._waiting: deque[Publishing] = deque()
        self._open: dict[Publishing, None] = {}  # all of them, in the order of acceptance
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, taker: Taker) -> None:
        """Name who sends."""
        self._taker = taker
        self._parking = Parking(self._settings.channels, taker.take)

    @property
    def waiting(self) -> int:
        """How many publishes wait for room in the window."""
        return len(self._open) - self.in_flight

    # ---- accepting

    @property
    def is_full(self) -> bool:
        """Whether the window has no room."""
        return self.in_flight >= self._settings.max_in_flight

    def refuse(self, is_drop: bool) -> None:
        """Count a publish that was not accepted."""
        self.queued += 1
        if is_drop:
            self.dropped += 1
        else:
            self.failed += 1

    def accept(self, publishing: Publishing, has_own_timeout: bool) -> None:
        """Take a publish into the window, or let it wait for room; its receipt tells the outcome."""
        self.queued += 1
        self._open[publishing] = None
        if has_own_timeout:
            publishing.timer = self._loop.call_at(publishing.deadline, self._expire_one, publishing)
        elif self._timer is None:
            self._timer = self._loop.call_at(publishing.deadline, self._expire)
        if self.is_full:
            self._waiting.append(publishing)
        else:
            self._admit(publishing)

    def _admit(self, publishing: Publishing) -> None:
        self.in_flight += 1
        publishing.stage = Stage.PARKED
        self._parking.park(publishing)

    def put_back(self, publishings: Iterable[Publishing]) -> None:
        """Let publishes that were taken, and could not be sent, try again, before those that came later."""
        self._parking.put_back(publishings)
        self.pump()

    def pump(self) -> None:
        """Send what is parked, as far as that goes. Call when something may be sent again."""
        if self._parking:
            self._parking.pump(self._loop.time())

    # ---- outcomes

    def confirmed(self, publishings: Iterable[Publishing]) -> None:
        """End what the broker confirmed, as confirmed or as unroutable."""
        for publishing in publishings:
            if publishing.return_reason is None:
                self.confirmed_count += 1
                self._end(publishing, None)
            else:
                self._fail(publishing, _unroutable(publishing))
        self._refill()

    def nacked(self, publishings: list[Publishing]) -> None:
        """Try again, with backoff, what the broker refused."""
        for publishing in publishings:
            publishing.refusal = PublishNacked(f"publish to {publishing.route} was refused: basic.nack")
        self._try_again(publishings)

    def refused(self, publishings: Iterable[Publishing], error: PublishError) -> None:
        """End what can never succeed, if it has not ended yet; `error` is certain for the last attempt."""
        for publishing in publishings:
            if publishing.stage is not Stage.ENDED:
                self._fail(publishing, error)
        self._refill()

    def unsent(self, publishings: list[Publishing]) -> None:
        """Take back what was given to a channel and never written: that was no attempt."""
        for publishing in publishings:
            publishing.stage = Stage.PARKED
        self.put_back(publishings)
        self._free_ids(publishings)

    def lost(self, publishings: list[Publishing], why: str) -> None:
        """Try again what was sent and whose fate is unknown, if duplicates are allowed; end what had been returned."""
        unknown = []
        for publishing in publishings:
            if publishing.return_reason is not None:
                self._fail(publishing, _unroutable(publishing))
            else:
                publishing.doubt = publishing.doubt or why
                unknown.append(publishing)
        if self._settings.retry_unconfirmed:
            self._try_again(unknown)
            return
        for publishing in unknown:
            self._fail(publishing)
        self._refill()

    def _try_again(self, publishings: list[Publishing]) -> None:
        again = []
        for publishing in publishings:
            publishing.stage = Stage.PARKED
            publishing.return_reason = None
            publishing.attempts += 1
            if publishing.attempts < self._settings.attempts:
                again.append(publishing)
            else:
                self._fail(publishing)
        if again:
            delay_s = PUBLISH_RETRY.delay_s(again[0].attempts - 1, self._rng)
            self._loop.call_later(delay_s, self.put_back, again)
            self._free_ids(again)
        self._refill()

    def _free_ids(self, publishings: Iterable[Publishing]) -> None:
        if self._taker.has_id_waiters:
            for publishing in publishings:
                self._taker.free_id(publishing.message_id)

    def _fail(self, publishing: Publishing, refusal: PublishError | None = None) -> None:
        publishing.refusal = refusal or publishing.refusal
        self.failed += 1
        self._end(publishing, publishing.verdict(self._taker.why_not))

    def _end(self, publishing: Publishing, error: PublishError | None) -> None:
        if publishing.stage is not Stage.WAITING:
            self.in_flight -= 1
        publishing.stage = Stage.ENDED
        del self._open[publishing]
        if publishing.timer is not None:
            publishing.timer.cancel()
        publishing.receipt.end(error)
        if self._taker.has_id_waiters:
            self._taker.free_id(publishing.message_id)

    def _refill(self) -> None:
        """Let those that wait for the window in, now that publishes have ended."""
        while self._waiting and not self.is_full:
            publishing = self._waiting.popleft()
            if publishing.stage is Stage.WAITING:
                self._admit(publishing)

    # ---- deadlines

    def _expire(self, is_second_look: bool = False) -> None:
        """End what has run out of time; wake up again when the next one would have."""
        self._timer = None
        now = self._loop.time()
        expired = []
        for publishing in self._open:  # those without a timer of their own are in the order of their deadlines
            if publishing.timer is not None:
                continue
            if publishing.deadline > now:
                self._timer = self._loop.call_at(publishing.deadline, self._expire)
                break
            expired.append(publishing)
        if expired and not is_second_look and now - expired[0].deadline > _OVERSLEPT_S:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(_SECOND_LOOK_S, self._expire, True)
            return
        for publishing in expired:
            self._run_out(publishing, _TOO_LATE)
        self._forget_ended()

    def _expire_one(self, publishing: Publishing, is_second_look: bool = False) -> None:
        if not is_second_look and self._loop.time() - publishing.deadline > _OVERSLEPT_S:
            publishing.timer = self._loop.call_later(_SECOND_LOOK_S, self._expire_one, publishing, True)
            return
        self._run_out(publishing, _TOO_LATE)
        self._forget_ended()

    def _run_out(self, publishing: Publishing, why: str) -> None:
        if publishing.stage is Stage.ENDED:
            return
        refusal = _unroutable(publishing) if publishing.return_reason is not None else None
        if publishing.stage is Stage.SENT:
            if refusal is None:
                publishing.doubt = publishing.doubt or why
            self._taker.give_up(publishing)
        self._fail(publishing, refusal)

    def abandon(self, publishing: Publishing) -> None:
        """Stop trying: the caller was cancelled. What is SENT stays in flight until it is confirmed, lost or late."""
        publishing.attempts = self._settings.attempts
        if publishing.stage in (Stage.WAITING, Stage.PARKED):
            self._fail(publishing)
            self._forget_ended()

    def _forget_ended(self) -> None:
        """Let others in, and forget what ended in a queue, so that a long outage does not fill it."""
        self._parking.forget_ended(self.in_flight)
        drop_ended(self._waiting, self.waiting)
        self._refill()

    # ---- the end

    async def emptied(self) -> None:
        """Wait until every publish that is open now has its outcome; who goes on publishing does not prolong that."""
        for publishing in list(self._open):
            if publishing.stage is not Stage.ENDED:
                ended: asyncio.Future[None] = self._loop.create_future()
                publishing.receipt.wake(ended)
                await ended

    def end_all(self, why: str) -> None:
        """End every publish now: what was sent as unconfirmed, the rest as not sent."""
        if self._timer is not None:
            self._timer.cancel()
        for publishing in list(self._open):
            self._run_out(publishing, why)
        self._forget_ended()


def _unroutable(publishing: Publishing) -> Unroutable:
    """Return the error of a publish that no queue takes, with what its author can do."""
    if publishing.route.exchange:
        advice = "no queue is bound to this exchange with such a routing key; Queue(..., bind=[...]) binds one"
    else:
        advice = (
            f"there is no queue of that name. A queue exists once a worker consumes it, or "
            f'handlers.declare(Queue("{publishing.route.routing_key}")) declares it'
        )
    return Unroutable(f"publish to {publishing.route} was returned ({publishing.return_reason}): {advice}.")
