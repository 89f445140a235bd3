"""Keeping one queue consumed, by replacing its subscription; and not consuming it, while there is a reason not to.

Whatever ends a subscription (the connection, a 404 or 406, a server-sent basic.cancel), a new one is opened, with
backoff. Replace, never repair. A pause is no loss: the channel stays, for the running handlers settle on it, and when
it is lost it is replaced by one that consumes nothing.

A consumer whose bodies find no room in the byte budget is paused, too, but what waits for a handler is kept. It goes on
when there is room, with a prefetch of so many bodies, of the size that the last ones had, as will fit: otherwise the
same messages would be given back again and again, and before RabbitMQ 4.3 each time counts toward the delivery limit of
a quorum queue. A single active consumer that is cancelled hands over to another one, so it first settles all it has.

Two things stop a queue until somebody has looked at them, see `try_again`: a message whose body is above the cap, where
the broker would drop what is rejected, and a queue over which the broker ends the whole connection (`faulty_queues`);
the latter is tried again by itself after some minutes.

A prefetch holds for the consume that it was set for. When another is wanted in the middle, that is a cancel and a
consume, and nothing that was read is given back for it.

Must not know: handlers, concurrency, processes.

Invariant: one request to the broker at a time, in a task of its own. Cancelled in the middle of one, the library closes
the channel, and the deliveries that are still to be settled on it would be done twice.
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
from mxworker.system.printable import one_line

log = logging.getLogger(__name__)

REPLY_DEADLINE_S = 30.0
_BYTES = "byte budget"
_TOO_LARGE = "a message is too large"
# How long a reduced prefetch is kept before the bodies that came meanwhile are looked at: a raise is a cancel and a
# consume, so not for every change of the weather.
_CALM_S = 10.0


UNPROVEN = "until all queues are checked"
"""Why a worker with new code does not consume yet. That belongs to each start, and is no news."""


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
        """Prepare. Made inside a running loop.

        `on_change` is called whenever `is_as_wanted` or `last_error` may have changed; `on_paused` whenever a pause is
        in force, so that no delivery follows: what is given back then does not come right back to us. Without `budget`
        there is no bound to the bytes. `opening` is shared by the consumers of a process, as many as may declare their
        queues at once. `calm_s`: seconds until a prefetch that was reduced is looked at. `level_of` an error is that of
        the line which tells of it. `declared` are there before the queue is consumed. `faulty_queues` are shared by
        all consumers of the link.
        """
        self.queue = queue
        self.prefetch = prefetch
        self.last_error: BrokerError | None = None
        """Why the queue is not consumed, or was not the last time; None before the first failure."""
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
        self._paused_for: frozenset[str] = frozenset()  # the reasons of which the broker knows, so to say
        self._turned: asyncio.Future[None] = self._loop.create_future()
        self._budget = budget or ByteBudget(sys.maxsize)
        self._growth = growth
        self._opening = opening or asyncio.Semaphore()
        self._body_bytes = 0
        self._most = prefetch  # while it is limited, less
        self._fitting_prefetch = prefetch
        self._calm_s = calm_s
        self._look: asyncio.TimerHandle | None = None
        self._level_of = level_of
        self._declared = declared or DeclaredQueues()
        self._has_news = False  # whether it was told last that the queue is not consumed
        self._faulty_queues = faulty_queues or FaultyQueues()
        self._trouble: BrokerError | None = None  # while it is stopped for it
        self._retry: asyncio.Future[None] | None = None

    # ---- what is

    @property
    def is_as_wanted(self) -> bool:
        """Whether its channel is up and consumes, or is paused. One that is stopped by a fault is not."""
        if self.subscription is None or self.subscription.is_lost or self._trouble is not None:
            return False
        return self.consumer_tag is not None or bool(self._reasons)

    @property
    def is_consuming(self) -> bool:
        """Whether the queue is consumed, and shall be."""
        return self.is_as_wanted and self.consumer_tag is not None and not self._reasons

    @property
    def consumer_tag(self) -> str | None:
        """The broker's name for what consumes the queue now, never used twice; None when nothing does."""
        return self.subscription.consumer_tag if self.subscription is not None else None

    @property
    def delivered(self) -> int:
        """How many deliveries have come on the present channel."""
        return self.subscription.delivered if self.subscription is not None else 0

    # ---- pausing

    def pause(self, reason: str) -> None:
        """Consume no more for as long as `reason` is not taken back. Comes into force soon; asking again does nothing.

        May be called at any time from the loop. `reason` is a few words for the log, and the key for `resume`.
        """
        self._reasons.add(reason)
        self._turn()

    def resume(self, reason: str) -> None:
        """Take `reason` back; when no other is left, consume again. Asking again does nothing."""
        self._reasons.discard(reason)
        self._turn()

    def try_again(self) -> None:
        """Consume again what was stopped by a fault. Nothing when it was not."""
        if self._retry is not None and not self._retry.done():
            self._retry.set_result(None)
        if _TOO_LARGE in self._reasons:
            self._trouble = None
            self.resume(_TOO_LARGE)

    def limit_prefetch(self, most: int | None) -> None:
        """Have at most `most` deliveries unsettled, beside those of before; with None, `prefetch` again.

        May be called at any time from the loop, and comes into force soon, or with the end of a pause. A single active
        consumer takes nothing new until then, so that it can hand over when all it has is settled.
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
        """Stop: the message cannot be read, and must not be rejected."""
        if self._trouble is None:
            self._trouble = self.last_error = BodyTooLarge(
                f"{what}; the broker may drop it if it were rejected, so it is given back and the queue is not "
                f"consumed any more.\n  Take the message out, raise --max-body-size, or let mxworker declare the queue "
                f"with a dead-letter queue. Then reload, or 'mxworker ctl pause {self.queue.name}' and 'resume' it."
            )
            self._tell_trouble(self._trouble)
        self.pause(_TOO_LARGE)
        self._on_change()

    # ---- the byte budget

    def _on_full(self) -> None:
        """Pause, as there is no room for a body."""
        if _BYTES not in self._reasons:
            self._budget.wait(self._on_room)
            if self.queue.single_active_consumer:
                self._on_room()  # what was held may have been settled while the body came in
            else:
                self.pause(_BYTES)

    def _on_room(self) -> None:
        """Go on if there is room enough, or nothing held whose settlement would tell us later."""
        subscription = self.subscription
        has_recovered = self._budget.has_recovered and not self.queue.single_active_consumer
        if has_recovered or subscription is None or not subscription.holds_bodies:
            self._forget_full()

    def _forget_full(self) -> None:
        self._budget.stop_waiting(self._on_room)
        self.resume(_BYTES)

    def _fit(self) -> int:
        """Return the prefetch that fits the bodies that came last, and keep it in mind."""
        if self.subscription is not None:
            self._body_bytes = self.subscription.take_body_bytes() or self._body_bytes
        self._fitting_prefetch = self._budget.fitting_prefetch(self._body_bytes, self._most)
        return self._fitting_prefetch

    def _look_later(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_later(self._calm_s, self._look_at_bodies)

    def _look_at_bodies(self) -> None:
        """Raise a reduced prefetch, if that is worth it."""
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
        """Subscribe, wait for the loss, subscribe again; ends only by cancellation. The last subscription stays."""
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
        """Make a request to the end, whatever happens to the caller; `cancel` waits for it."""
        if connection.plane.frames.close_reason is None:  # else it is not what ended the connection
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
                )
        except TimeoutError:
            raise ChannelLost(f"queue '{self.queue.name}': no answer within {REPLY_DEADLINE_S:g} s") from None
        if prefetch is not None:
            self._note_consuming(self.subscription)

    async def _steer(self, subscription: Subscription, connection: BrokerConnection) -> BrokerError:
        """Consume or pause, as is wanted at the time, until the subscription is lost; return why it was."""
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
        """Whether, cancelled now, another consumer would work on what follows beside us, who are not done yet."""
        return self.queue.single_active_consumer and subscription.holds_bodies

    async def _adjust(self, subscription: Subscription) -> None:
        """Come a step closer to what is wanted, which may change meanwhile."""
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
        facts = {"queue": self.queue.name, "prefetch": subscription.prefetch}
        log.log(level, "consuming queue %s, prefetch %d", self.queue.name, subscription.prefetch, extra=facts)
        self._on_change()
        if subscription.prefetch < self._most:
            self._look_later()

    def _note_paused(self) -> None:
        self._paused_for = frozenset(self._reasons)
        is_brief = self._paused_for == {_BYTES}
        is_news = not self._paused_for <= {_BYTES, UNPROVEN}
        reasons = sorted(self._reasons)
        facts = {"queue": self.queue.name, "reasons": reasons}
        level = logging.INFO if is_news else logging.DEBUG
        log.log(level, "queue %s is paused: %s", self.queue.name, ", ".join(reasons), extra=facts)
        self._has_news |= is_news
        if not is_brief:
            self._on_paused()
        if _BYTES in self._reasons:
            self._on_room()  # what was held may have been settled before the last body was left unread

    async def _give_up_or_rest(self, error: BrokerError, connection: BrokerConnection, attempt: int) -> None:
        reason = connection.plane.frames.close_reason
        if reason is not None and self._faulty_queues.blame(self.queue.name, connection, reason, self._loop.time()):
            await self._give_up(reason)
        else:
            await self._rest(error, connection, attempt)

    async def _give_up(self, reason: tuple[int, str]) -> None:
        """Leave the queue alone for some minutes, or until `try_again`."""
        code, text = reason
        self._trouble = self.last_error = QueueGivenUp(
            f"queue '{self.queue.name}' is not consumed any more: over it the broker ended the connection "
            f"again: {code} {text}.\n  The others go on. It is tried again in {GIVEN_UP_S / 60:g} min, after a reload, "
            f"and after 'mxworker ctl pause {self.queue.name}' and 'resume'."
        )
        self._tell_trouble(self._trouble)
        self._on_change()
        self._retry = self._loop.create_future()
        await asyncio.wait({self._retry}, timeout=GIVEN_UP_S)
        self._retry = self._trouble = None

    def _tell_trouble(self, error: BrokerError) -> None:
        """Log why the queue is stopped; what ends a first start is told at its end."""
        self._has_news = True
        level = self._level_of(error)
        log.log(logging.ERROR if level >= logging.WARNING else level, "%s", one_line(error))

    async def _rest(self, error: BrokerError, connection: BrokerConnection, attempt: int) -> None:
        self.last_error = error
        self._on_change()
        if connection.plane.lost.done():
            return  # the link says so and backs off; here waiting for the next connection is enough
        delay_s = RECONNECT.delay_s(attempt, self._rng)
        log.log(
            self._level_of(error),
            "queue %s is not consumed: %s; next attempt in %.1f s",
            self.queue.name,
            one_line(error),
            delay_s,
            extra={"queue": self.queue.name, "error": str(error), "next_attempt_s": round(delay_s, 3)},
        )
        self._has_news = True
        await asyncio.sleep(delay_s)

    # ---- ending

    async def cancel(self) -> None:
        """Stop the deliveries for good: returns once none will follow. Call after `run` was cancelled.

        A request may have been under way then. It may have brought deliveries already, and only a subscription that is
        known can be cancelled and drained, so its end is waited for, up to 30 s.
        """
        await self.end_request()
        if self.subscription is not None:
            await self.subscription.cancel()

    async def end_request(self) -> None:
        """Wait, up to 30 s, for the end of a request that was under way when `run` was cancelled."""
        if self._request is not None:
            await asyncio.wait({self._request})
            if not self._request.cancelled():
                self._request.exception()  # nobody else takes it any more

    async def abandon(self) -> None:
        """Give up a request that is still under way. Call at the very end."""
        if self._request is not None:
            self._request.cancel()
            await asyncio.wait({self._request})

    def rebuild(self, why: str) -> None:
        """Replace the subscription although nothing said that it ended; `run` does it."""
        if self.subscription is not None:
            self.subscription.give_up(why)
