"""Keep one queue consumed by replacing its subscription, and do not consume it while there is a reason to pause.

When a subscription ends (by the end of the connection, a 404 or 406, or a server-sent basic.cancel), a new one is
opened, with backoff. A subscription is replaced, never repaired. A pause does not end it: the channel stays open,
because running handlers settle on it, and a channel that is lost during a pause is replaced by one that does not
consume.

A consumer whose bodies do not fit into the byte budget is paused, too, but deliveries that wait for a handler are kept.
When there is room it goes on, with the prefetch that fits bodies of the size of the last ones. Otherwise the same
messages would be given back again and again, which before RabbitMQ 4.3 counts toward the delivery limit of a quorum
queue. A single active consumer that is cancelled hands over to another one, so it first settles all its deliveries.

Two faults stop a queue until somebody acts, see `try_again`. One is a message with a body above the cap on a queue
where the broker would drop a rejected message. The other is a queue that makes the broker end the whole connection
(`faulty_queues`); that queue is also tried again after some minutes.

A prefetch belongs to one basic.consume. Changing it takes a cancel and a new consume, and gives back no delivery whose
body was read.

This module must not know handlers, concurrency or processes.

Invariant: there is one request to the broker at a time, in a separate task. If the task were cancelled during a
request, the library would close the channel, and its unsettled deliveries would be processed twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from mxworker.amqp.connecting.connection import BrokerConnection, Link
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.amqp.consuming.declared import DeclaredQueues
from mxworker.amqp.consuming.faulty_queues import GIVEN_UP_S, FaultyQueues
from mxworker.amqp.consuming.subscription import Admit, Subscription
from mxworker.api.queues import Queue
from mxworker.backoff import RECONNECT, next_attempt
from mxworker.errors import BodyTooLarge, BrokerError, ChannelLost, QueueGivenUp
from mxworker.system.log_events import log_event
from mxworker.system.printable import one_line

log = logging.getLogger(__name__)

REPLY_DEADLINE_S = 30.0
_BYTES = "byte budget"
_TOO_LARGE = "a message is too large"
# A reduced prefetch is kept for this long before the size of the later bodies is checked. Raising it takes a cancel and
# a consume, so it is not raised for every small change.
_CALM_S = 10.0


UNPROVEN = "until all queues are checked"
"""The reason why a worker with new code does not consume yet. Each start has it, so it is logged at DEBUG only."""


class Consumer:
    """Keeps one queue consumed while `run` runs, except while it is paused."""

    def __init__(
        self,
        link: Link,
        queue: Queue,
        prefetch: int,
        admit: Admit,
        on_change: Callable[[], None],
        rng: random.Random,
        *,
        on_paused: Callable[[], None] = lambda: None,
        retry_steps_ms: Sequence[int] = (),
        budget: ByteBudget | None = None,
        growth: int = 1,
        opening: asyncio.Semaphore | None = None,
        calm_s: float = _CALM_S,
        level_of: Callable[[BrokerError], int] = lambda _: logging.WARNING,
        declared: DeclaredQueues | None = None,
        faulty_queues: FaultyQueues | None = None,
    ) -> None:
        """Make it inside a running loop. Nothing is consumed before `run`.

        `on_change` is called whenever `is_as_wanted` or `last_error` may have changed. `on_paused` is called whenever a
        pause has taken effect: no delivery follows, so messages that are given back then do not come right back to us.
        Without `budget` the bytes have no bound. `opening`, shared by the consumers of a process, bounds how many of
        them declare their queues at once. `calm_s` is the seconds after which a reduced prefetch is checked. `level_of`
        returns the log level for an error. `declared` are declared before the queue is consumed. `faulty_queues` is
        shared by all consumers of the link.
        """
        self.queue = queue
        self.prefetch = prefetch
        self.last_error: BrokerError | None = None
        """The last reason why the queue was not consumed, None before the first failure."""
        self.subscription: Subscription | None = None
        self._link = link
        self._admit = admit
        self._on_change = on_change
        self._on_paused = on_paused
        self._rng = rng
        self._retry_steps_ms = retry_steps_ms
        self._loop = asyncio.get_running_loop()
        self._request: asyncio.Task[None] | None = None
        self._reasons: set[str] = set()
        self._paused_for: frozenset[str] = frozenset()  # the reasons of the pause that is in effect at the broker
        self._turned: asyncio.Future[None] = self._loop.create_future()
        self._budget = budget or ByteBudget(sys.maxsize)
        self._growth = growth
        self._opening = opening or asyncio.Semaphore()
        self._body_bytes = 0
        self._most = prefetch  # lower while the prefetch is limited
        self._fitting_prefetch = prefetch
        self._calm_s = calm_s
        self._look: asyncio.TimerHandle | None = None
        self._level_of = level_of
        self._declared = declared or DeclaredQueues()
        self._has_news = False  # whether the last log line said that the queue is not consumed
        self._faulty_queues = faulty_queues or FaultyQueues()
        self._trouble: BrokerError | None = None  # the fault that stops the queue now
        self._retry: asyncio.Future[None] | None = None

    # ---- the present state

    @property
    def is_as_wanted(self) -> bool:
        """Whether the channel is up, and consumes or is paused. False for a queue that a fault has stopped."""
        if self.subscription is None or self.subscription.is_lost or self._trouble is not None:
            return False
        return self.consumer_tag is not None or bool(self._reasons)

    @property
    def is_consuming(self) -> bool:
        """Whether the queue is consumed, and no pause was asked for."""
        return self.is_as_wanted and self.consumer_tag is not None and not self._reasons

    @property
    def trouble(self) -> BrokerError | None:
        """The fault that has stopped the queue until somebody acts, or for some minutes; None without one."""
        return self._trouble

    @property
    def pause_reasons(self) -> frozenset[str]:
        """Why the queue is paused; empty when no pause was asked for."""
        return frozenset(self._reasons)

    @property
    def consumer_tag(self) -> str | None:
        """The tag of the present consumer, which is never used twice; None while the queue is not consumed."""
        return self.subscription.consumer_tag if self.subscription is not None else None

    @property
    def delivered(self) -> int:
        """How many deliveries came on the present channel."""
        return self.subscription.delivered if self.subscription is not None else 0

    # ---- pausing

    def pause(self, reason: str) -> None:
        """Stop consuming until `reason` is resumed. The pause takes effect soon; a repeated call does nothing.

        May be called at any time from the loop. `reason` is a short text for the log, and the key for `resume`.
        """
        self._reasons.add(reason)
        self._turn()

    def resume(self, reason: str) -> None:
        """Remove `reason`, and consume again when no other reason is left. A repeated call does nothing."""
        self._reasons.discard(reason)
        self._turn()

    def try_again(self) -> None:
        """Consume a queue again that a fault has stopped. Does nothing for others."""
        if self._retry is not None and not self._retry.done():
            self._retry.set_result(None)
        if _TOO_LARGE in self._reasons:
            self._trouble = None
            self.resume(_TOO_LARGE)

    def limit_prefetch(self, most: int | None) -> None:
        """Limit the prefetch to `most`, not counting deliveries that came before; None removes the limit.

        May be called at any time from the loop. The limit takes effect soon, or at the end of a pause. Until then a
        single active consumer takes no new delivery, so that it can hand over when all its deliveries are settled.
        """
        self._most = self.prefetch if most is None else min(most, self.prefetch)
        wanted = self._fit()
        subscription = self.subscription
        if subscription is not None and subscription.consumer_tag is not None and subscription.prefetch != wanted:
            if self._would_hand_over(subscription):
                subscription.leave_unread()
                self._budget.wait(self._on_room)
            self._turn()

    def _turn(self) -> None:
        if not self._turned.done():
            self._turned.set_result(None)

    def _on_too_large(self, what: str) -> None:
        """Stop consuming, because the message cannot be read and must not be rejected."""
        if self._trouble is None:
            self._trouble = self.last_error = BodyTooLarge(
                f"{what}; the broker might drop a rejected message, so it is given back and the queue is not "
                f"consumed any more.\n  Take the message out, raise --max-body-size, or let mxworker declare the queue "
                f"with a dead-letter queue. Then reload, or 'mxworker ctl pause {self.queue.name}' and 'resume' it."
            )
            self._tell_trouble(self._trouble)
        self.pause(_TOO_LARGE)
        self._on_change()

    # ---- the byte budget

    def _on_full(self) -> None:
        """Pause, because the budget has no room for a body."""
        if _BYTES not in self._reasons:
            self._budget.wait(self._on_room)
            if self.queue.single_active_consumer:
                self._on_room()  # all deliveries may have been settled while the body came in
            else:
                self.pause(_BYTES)

    def _on_room(self) -> None:
        """Resume if there is enough room, or if no delivery is held whose settlement would call this again."""
        subscription = self.subscription
        has_recovered = self._budget.has_recovered and not self.queue.single_active_consumer
        if has_recovered or subscription is None or not subscription.holds_bodies:
            self._forget_full()

    def _forget_full(self) -> None:
        self._budget.stop_waiting(self._on_room)
        self.resume(_BYTES)

    def _fit(self) -> int:
        """Return and remember the prefetch that fits the size of the last bodies."""
        if self.subscription is not None:
            self._body_bytes = self.subscription.take_body_bytes() or self._body_bytes
        self._fitting_prefetch = self._budget.fitting_prefetch(self._body_bytes, self._most)
        return self._fitting_prefetch

    def _look_later(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_later(self._calm_s, self._look_at_bodies)

    def _look_at_bodies(self) -> None:
        """Raise a reduced prefetch if it can be doubled or be full again."""
        self._look = None
        if not self.is_consuming:
            return
        assert self.subscription is not None
        present = self.subscription.prefetch
        if self._would_hand_over(self.subscription):
            self._look_later()
        elif self._fit() >= min(2 * present, self._most):
            self._turn()
        else:
            self._fitting_prefetch = present
            self._look_later()

    # ---- consuming

    async def run(self) -> None:
        """Subscribe, wait for the loss, and subscribe again, until cancelled. The last subscription stays open."""
        attempt = 0
        while True:
            connection = await self._link.connection()
            try:
                async with self._opening, self._faulty_queues.turn(self._loop.time()):
                    await self._carry_out(self._open(connection), connection)
            except BrokerError as error:
                await self._give_up_or_rest(error, connection, attempt)
                attempt += 1
                continue
            assert self.subscription is not None
            self.last_error = None
            self._on_change()
            loss = await self._steer(self.subscription, connection)
            self._forget_full()
            attempt = next_attempt(attempt, self._loop.time() - self.subscription.opened_at)
            await self.subscription.close()
            await self._give_up_or_rest(loss, connection, attempt)

    async def _carry_out(self, request: Coroutine[Any, Any, None], connection: BrokerConnection) -> None:
        """Make a request in a task that runs on when the caller is cancelled; `cancel` waits for that task."""
        if connection.plane.frames.close_reason is None:  # else another request has ended the connection
            self._faulty_queues.begin(self.queue.name, connection)
        self._request = self._loop.create_task(request)
        await asyncio.shield(self._request)
        if connection.plane.frames.close_reason is None:
            self._faulty_queues.succeeded(self.queue.name)

    async def _open(self, connection: BrokerConnection) -> None:
        prefetch = None if self._reasons else self._fit()
        try:
            async with asyncio.timeout(REPLY_DEADLINE_S):
                await self._declared.ensure(connection)
                self.subscription = await Subscription.open(
                    connection,
                    self.queue,
                    prefetch,
                    self._admit,
                    retry_steps_ms=self._retry_steps_ms,
                    budget=self._budget,
                    on_full=self._on_full,
                    on_too_large=self._on_too_large,
                    growth=self._growth,
                    former=self.last_error,
                )
        except TimeoutError:
            raise ChannelLost(f"queue '{self.queue.name}': no answer within {REPLY_DEADLINE_S:g} s") from None
        if prefetch is not None:
            self._note_consuming(self.subscription)

    async def _steer(self, subscription: Subscription, connection: BrokerConnection) -> BrokerError:
        """Consume or pause, as is wanted at the time, until the subscription is lost; return the reason of the loss."""
        while not subscription.is_lost:
            self._turned = self._loop.create_future()
            if self._has_to_adjust(subscription):
                await self._carry_out(self._adjust(subscription), connection)
            else:
                await asyncio.wait((subscription.lost, self._turned), return_when=asyncio.FIRST_COMPLETED)
        return subscription.lost.result()

    def _has_to_adjust(self, subscription: Subscription) -> bool:
        if subscription.consumer_tag is None or self._reasons:
            return self._reasons != self._paused_for or not self._reasons
        if self._would_hand_over(subscription):
            return False
        return subscription.has_unread or subscription.prefetch != self._fitting_prefetch

    def _would_hand_over(self, subscription: Subscription) -> bool:
        """Tell whether a cancel now would activate another consumer while we still hold deliveries."""
        return self.queue.single_active_consumer and subscription.holds_bodies

    async def _adjust(self, subscription: Subscription) -> None:
        """Make one request toward the wanted state, which may change meanwhile."""
        try:
            async with asyncio.timeout(REPLY_DEADLINE_S):
                if self._reasons or subscription.consumer_tag is not None:
                    await subscription.cancel()
                else:
                    await subscription.consume(self._fit())
        except TimeoutError:
            subscription.give_up(f"no answer within {REPLY_DEADLINE_S:g} s")
        if subscription.is_lost:
            return
        if subscription.consumer_tag is not None:
            self._note_consuming(subscription)
        elif self._reasons:
            self._note_paused()

    def _note_consuming(self, subscription: Subscription) -> None:
        self._paused_for = frozenset()
        level = logging.INFO if self._has_news else logging.DEBUG
        self._has_news = False
        facts = log_event("queue_consumed", queue=self.queue.name, prefetch=subscription.prefetch)
        log.log(level, "consuming queue %s, prefetch %d", self.queue.name, subscription.prefetch, extra=facts)
        self._on_change()
        if subscription.prefetch < self._most:
            self._look_later()

    def _note_paused(self) -> None:
        self._paused_for = frozenset(self._reasons)
        is_brief = self._paused_for == {_BYTES}
        is_news = not self._paused_for <= {_BYTES, UNPROVEN}
        reasons = sorted(self._reasons)
        facts = log_event("queue_paused", queue=self.queue.name, reasons=reasons)
        level = logging.INFO if is_news else logging.DEBUG
        log.log(level, "queue %s is paused: %s", self.queue.name, ", ".join(reasons), extra=facts)
        self._has_news |= is_news
        if not is_brief:
            self._on_paused()
        if _BYTES in self._reasons:
            self._on_room()  # all deliveries may have been settled before the last body was left unread

    async def _give_up_or_rest(self, error: BrokerError, connection: BrokerConnection, attempt: int) -> None:
        reason = connection.plane.frames.close_reason
        if reason is not None and self._faulty_queues.note_loss(self.queue.name, connection, reason, self._loop.time()):
            await self._give_up(reason)
        else:
            await self._rest(error, connection, attempt)

    async def _give_up(self, reason: tuple[int, str]) -> None:
        """Do not consume the queue for some minutes, or until `try_again`."""
        code, text = reason
        self._trouble = self.last_error = QueueGivenUp(
            f"queue '{self.queue.name}' is not consumed any more, because it made the broker end the connection "
            f"again: {code} {text}.\n  Other queues go on. This one is tried again in {GIVEN_UP_S / 60:g} min, after a "
            f"reload, and after 'mxworker ctl pause {self.queue.name}' and 'resume'."
        )
        self._tell_trouble(self._trouble)
        self._on_change()
        self._retry = self._loop.create_future()
        await asyncio.wait({self._retry}, timeout=GIVEN_UP_S)
        self._retry = self._trouble = None

    def _tell_trouble(self, error: BrokerError) -> None:
        """Log why the queue is stopped, as an error unless `level_of` says less."""
        self._has_news = True
        level = self._level_of(error)
        facts = log_event("queue_stopped", queue=self.queue.name, error=str(error))
        log.log(logging.ERROR if level >= logging.WARNING else level, "%s", one_line(error), extra=facts)

    async def _rest(self, error: BrokerError, connection: BrokerConnection, attempt: int) -> None:
        self.last_error = error
        self._on_change()
        if connection.plane.lost.done():
            return  # the link logs the loss and backs off; `run` waits for its next connection
        delay_s = RECONNECT.delay_s(attempt, self._rng)
        log.log(
            self._level_of(error),
            "queue %s is not consumed: %s; next attempt in %.1f s",
            self.queue.name,
            one_line(error),
            delay_s,
            extra=log_event(
                "queue_not_consumed", queue=self.queue.name, error=str(error), next_attempt_s=round(delay_s, 3)
            ),
        )
        self._has_news = True
        await asyncio.sleep(delay_s)

    # ---- ending

    async def cancel(self) -> None:
        """Stop the deliveries, and return when none will follow. Call this after `run` was cancelled.

        A request that was under way then may have brought deliveries already. This waits up to 30 s for the request to
        end, because only an open subscription can be cancelled and drained.
        """
        await self.end_request()
        if self.subscription is not None:
            await self.subscription.cancel()

    async def end_request(self) -> None:
        """Wait up to 30 s for the end of a request that was under way when `run` was cancelled."""
        if self._request is not None:
            await asyncio.wait({self._request})
            if not self._request.cancelled():
                self._request.exception()  # marks the exception as retrieved

    async def abandon(self) -> None:
        """Cancel a request that is still under way. Call this last."""
        if self._request is not None:
            self._request.cancel()
            await asyncio.wait({self._request})

    def rebuild(self, why: str) -> None:
        """End the subscription although its channel is open, so that `run` replaces it."""
        if self.subscription is not None:
            self.subscription.give_up(why)
