"""The way of every publish from acceptance to outcome: window, channel, exchange, id, retry, deadline.

    publisher -> accept -> send -> publisher_channel -> the wire
                   ^                                       |
                   +------- confirmed, nacked, lost  <- confirm_sink

Only the outbox knows every publish without an outcome, and what it waits for. The states are those in `publishing`.

This module knows nothing about opening and replacing channels and connections, and about encoding bodies.

Invariants:
- Publishes that are accepted and do not wait for the window are in flight. They are never more than `max_in_flight`.
- Every accepted publish ends exactly once, at its deadline at the latest.
- No publish waits that could be sent: every event that frees publishes ends in a call of `send_waiting`.
- When the fate of one attempt is unknown, the publish ends as unknown unless a later attempt is confirmed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from mxworker.amqp.connecting.connection import BrokerConnection, Link
from mxworker.amqp.publishing.deadlines import Deadlines
from mxworker.amqp.publishing.exchanges import Exchanges
from mxworker.amqp.publishing.publish_errors import headers_too_large, nacked, unroutable, unsent, verdict
from mxworker.amqp.publishing.publisher_channel import PublisherChannel
from mxworker.amqp.publishing.publishing import Publishing, State
from mxworker.amqp.publishing.stats import PublisherStats, PublishTally
from mxworker.amqp.publishing.waiting import Waiting, take_first
from mxworker.backoff import Backoff
from mxworker.config.publisher import PublisherSettings
from mxworker.errors import PublishError, PublishOverflow

_TOO_LATE = "no confirm came in time"
# A publish in one of these may have its message id to itself on its channel, so others with that id wait for its end.
_MAY_HOLD_ID = frozenset({State.SENT, State.CHANNEL, State.EXCHANGE})


class Outbox:
    """The publishes of one publisher that have no outcome yet. Belongs to one event loop."""

    def __init__(
        self,
        settings: PublisherSettings,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        link: Link,
        exchanges: Exchanges,
        tally: PublishTally | None = None,
    ) -> None:
        """`link` has the reason when nothing can be sent. Nothing is sent before there are channels to `use`.

        `tally` counts each publish at its end.
        """
        self._tally = tally
        self.queued = 0
        """The number of publishes since the start. Each is in one of the next three counts, or has no outcome."""
        self.confirmed_count = 0
        self.failed = 0
        self.dropped = 0
        self.is_closed = False
        """Whether further publishes are refused."""
        self._settings = settings
        self._retry_backoff = Backoff(settings.retry_base_s, settings.retry_cap_s, settings.retry_factor)
        self._loop = loop
        self._rng = rng
        self._link = link
        self._exchanges = exchanges
        self._channels: list[PublisherChannel | None] = [None] * settings.channels
        self._open: dict[Publishing, None] = {}  # all without an outcome, in the order of acceptance
        self._waiting = Waiting(settings.channels)
        self._deadlines = Deadlines(loop, self._open, self._end_late)

    @property
    def in_flight(self) -> int:
        """The number of publishes in the window: they are accepted and have no outcome."""
        return len(self._open) - len(self._waiting.window)

    def stats(self) -> PublisherStats:
        """Return the counts since the start, and the numbers of publishes that wait now."""
        has_channel = [channel is not None and not channel.is_over for channel in self._channels]
        return PublisherStats(
            tasks_queued=self.queued,
            tasks_processed=self.confirmed_count,
            tasks_failed=self.failed,
            tasks_dropped=self.dropped,
            in_flight=self.in_flight,
            waiting=len(self._waiting.window),
            waiting_for=self._waiting.counts(has_channel),
            is_blocked=self.blocked_reason is not None,
            open_channels=sum(has_channel),
        )

    @property
    def is_full(self) -> bool:
        """Whether the window has no room."""
        return len(self._open) - len(self._waiting.window) >= self._settings.max_in_flight

    @property
    def blocked_reason(self) -> str | None:
        """The reason why the broker takes no publishes now; None when it does, or when there is no connection."""
        connection = self._link.live
        return None if connection is None else connection.plane.blocked_reason

    # ---- accepting

    def check(self, may_wait: bool) -> None:
        """Raise PublishOverflow when no publish is accepted now. With `may_wait` it may wait for room in the window."""
        settings = self._settings
        if self.is_closed:
            why = "the publisher is closed"
        elif self.is_full and not (may_wait and settings.overflow == "wait"):
            why = f"{settings.max_in_flight} publishes are in flight already"
        elif settings.when_blocked == "raise" and self.blocked_reason is not None:
            why = f"the broker takes no publishes ({self.blocked_reason})"
        else:
            return
        raise PublishOverflow(f"not sent: {why}")

    def refuse(self, error: PublishError, exchange: str) -> None:
        """Count a publish that was not accepted. One that cannot be encoded is the caller's, and no publish."""
        self.queued += 1
        tally = self._tally
        if isinstance(error, PublishOverflow) and self._settings.overflow == "drop" and self.is_full:
            self.dropped += 1
            if tally is not None:
                tally.dropped(exchange)
        else:
            self.failed += 1
            if tally is not None and isinstance(error, PublishOverflow):
                tally.failed(exchange, error)

    def accept(self, publishing: Publishing, has_own_timeout: bool) -> None:
        """Take a publish into the window, or let it wait for room. Its receipt gets the outcome."""
        is_full = self.is_full
        self.queued += 1
        self._open[publishing] = None
        self._deadlines.start(publishing, has_own_timeout)
        if is_full:
            self._waiting.add(publishing, State.WINDOW)
        else:
            self._admit(publishing)

    # ---- sending

    def use(self, number: int, channel: PublisherChannel | None) -> None:
        """Set the channel of a number, which sends the publishes with that number; None while there is none."""
        self._channels[number] = channel
        self.send_waiting()

    def _admit(self, publishing: Publishing) -> None:
        """Send a publish for which the window has room, or let it wait if its channel is busy or others wait for it."""
        number = publishing.route.channel
        channel = self._channels[number]
        if channel is None or self._waiting.channels[number] or not channel.takes_more:
            self._waiting.add(publishing, State.CHANNEL)
        else:
            self._send(publishing, channel)

    def _send(self, publishing: Publishing, channel: PublisherChannel) -> None:
        """Send a publish by a channel that takes more.

        There are four cases. If its exchange was not checked on this connection, it waits for the answer. If it can
        never be sent, it ends. If another publish with its message id has no confirm on this channel, it waits for the
        end of that one, since the id is what assigns the broker's returns to publishes. Otherwise it is sent.
        """
        if publishing.route.exchange not in self._exchanges.known:
            self._find_exchange(publishing, channel.connection)
        elif len(publishing.properties) > channel.max_properties_bytes:
            self._fail(publishing, headers_too_large(publishing, channel.max_properties_bytes))
        elif channel.ledger.has_id(publishing.message_id):
            self._waiting.add(publishing, State.SAME_ID)
        else:
            channel.send(publishing)

    def send_waiting(self) -> None:
        """Send publishes that wait for channels, as far as the channels take them, and admit others into the window.

        Call it whenever a waiting publish may be sent. A publish that ends in here, because it is late or can never be
        sent, makes room in the window. It may also free the next publish with its message id, which then comes first.
        """
        for channel, queue in zip(self._channels, self._waiting.channels, strict=True):
            while queue and channel is not None and channel.takes_more:
                self._send_in_time(take_first(queue), channel)
        window = self._waiting.window
        while window and not self.is_full:
            self._admit(take_first(window))

    def _send_in_time(self, publishing: Publishing, channel: PublisherChannel) -> None:
        if publishing.deadline > self._loop.time():
            self._send(publishing, channel)
        else:
            self._run_out(publishing, _TOO_LATE)

    def _find_exchange(self, publishing: Publishing, connection: BrokerConnection) -> None:
        """Let a publish wait for the check of its exchange, or end it when the exchange was refused a while ago."""
        exchange = publishing.route.exchange
        refusal = self._exchanges.refusal(exchange)
        if refusal is not None:
            self._fail(publishing, refusal)
            return
        is_first = exchange not in self._waiting.exchanges
        self._waiting.add(publishing, State.EXCHANGE)
        if is_first:
            self._exchanges.look(exchange, connection, self._exchange_answered)

    def _exchange_answered(self, exchange: str, missing: PublishError | None) -> None:
        publishings = list(self._waiting.exchanges[exchange])
        if missing is None:
            self._waiting.add_first(publishings)
        else:
            for publishing in publishings:
                self._fail(publishing, missing)
        self._waiting.answered(exchange)
        self.send_waiting()

    # ---- outcomes, called by confirm_sink

    def confirmed(self, publishings: Iterable[Publishing]) -> None:
        """End publishes that the broker confirmed, as confirmed or as unroutable."""
        tally = self._tally
        now = self._loop.time()
        for publishing in publishings:
            if publishing.return_reason is None:
                self.confirmed_count += 1
                if tally is not None:
                    tally.confirmed(publishing.route.exchange, len(publishing.body), now - publishing.accepted_at)
                self._end(publishing, None)
            else:
                self._fail(publishing, unroutable(publishing))
        self.send_waiting()

    def nacked(self, publishings: list[Publishing]) -> None:
        """Try publishes that the broker nacked again, with backoff."""
        for publishing in publishings:
            publishing.refusal = nacked(publishing)
        self._try_again(publishings)

    def refused(self, publishings: Iterable[Publishing], error: PublishError) -> None:
        """End publishes that can never succeed; `error` is certain for the last attempt."""
        for publishing in publishings:
            self._fail(publishing, error)
        self.send_waiting()

    def unwritten(self, publishings: list[Publishing]) -> None:
        """Take back publishes whose channel ended before it wrote them. That does not count as an attempt."""
        self._waiting.add_first(publishings)
        self.send_waiting()

    def lost(self, publishings: list[Publishing], why: str) -> None:
        """Try publishes whose fate is unknown again, if duplicates are allowed. End those that were returned before."""
        unknown = []
        for publishing in publishings:
            if publishing.return_reason is not None:
                self._fail(publishing, unroutable(publishing))
            else:
                publishing.doubt = publishing.doubt or why
                unknown.append(publishing)
        if self._settings.retry_unconfirmed:
            self._try_again(unknown)
            return
        for publishing in unknown:
            self._fail(publishing)
        self.send_waiting()

    def _try_again(self, publishings: list[Publishing]) -> None:
        again = []
        for publishing in publishings:
            publishing.return_reason = None
            publishing.attempts += 1
            if publishing.attempts < self._settings.attempts:
                self._waiting.add(publishing, State.RETRY)
                self._pass_on_id(publishing)
                again.append(publishing)
            else:
                self._fail(publishing)
        if again:
            delay_s = self._retry_backoff.delay_s(again[0].attempts - 1, self._rng)
            self._loop.call_later(delay_s, self._retry, again)
        self.send_waiting()

    def _retry(self, publishings: list[Publishing]) -> None:
        self._waiting.add_first([publishing for publishing in publishings if publishing.state is State.RETRY])
        self.send_waiting()

    # ---- ending

    def _fail(self, publishing: Publishing, refusal: PublishError | None = None) -> None:
        publishing.refusal = refusal or publishing.refusal
        self.failed += 1
        error = verdict(publishing, self._why_unsent)
        if self._tally is not None:
            self._tally.failed(publishing.route.exchange, error)
        self._end(publishing, error)

    def _end(self, publishing: Publishing, error: PublishError | None) -> None:
        state = publishing.state
        if state is not State.SENT:
            self._waiting.remove(publishing)
        publishing.state = State.ENDED
        del self._open[publishing]
        if publishing.timer is not None:
            publishing.timer.cancel()
        publishing.receipt.end(error)
        if self._waiting.ids and state in _MAY_HOLD_ID:
            self._pass_on_id(publishing)

    def _pass_on_id(self, publishing: Publishing) -> None:
        """Free the next publish that waits for the message id of this one, which has left its channel."""
        queue = self._waiting.with_id_of(publishing)
        channel = self._channels[publishing.route.channel]
        if queue and (channel is None or not channel.ledger.has_id(publishing.message_id)):
            self._waiting.add_first([next(iter(queue))])

    def _why_unsent(self, publishing: Publishing) -> str:
        """Return why a publish was not sent: a reason that holds for all publishes, or the one that it waits for."""
        if self.is_closed:
            return "the publisher was closed"
        if self._link.live is None:
            return f"no connection ({self._link.last_error or 'not connected yet'})"
        if self.blocked_reason is not None:
            return f"the broker takes no publishes ({self.blocked_reason})"
        return unsent(publishing, self._settings.max_in_flight)

    # ---- deadlines

    def _end_late(self, publishings: Iterable[Publishing]) -> None:
        for publishing in publishings:
            self._run_out(publishing, _TOO_LATE)
        self.send_waiting()

    def _run_out(self, publishing: Publishing, why: str) -> None:
        if publishing.state is State.ENDED:
            return
        refusal = unroutable(publishing) if publishing.return_reason is not None else None
        if publishing.state is State.SENT:
            if refusal is None:
                publishing.doubt = publishing.doubt or why
            if publishing.give_up is not None:
                publishing.give_up(publishing)
        self._fail(publishing, refusal)

    def abandon(self, publishing: Publishing) -> None:
        """Stop the attempts of a cancelled caller. A SENT publish stays until it is confirmed, lost or late."""
        publishing.attempts = self._settings.attempts
        if publishing.state not in (State.SENT, State.ENDED):
            self._fail(publishing)
            self.send_waiting()

    # ---- the end

    async def emptied(self) -> None:
        """Wait until every publish that is open now has its outcome. Later publishes do not prolong the wait."""
        for publishing in list(self._open):
            if publishing.state is not State.ENDED:
                ended: asyncio.Future[None] = self._loop.create_future()
                publishing.receipt.wake(ended)
                await ended

    def end_all(self, why: str) -> None:
        """End every publish now: sent ones as unconfirmed, the rest as not sent. Call when `is_closed` is set."""
        self._deadlines.stop()
        for publishing in list(self._open):
            self._run_out(publishing, why)
