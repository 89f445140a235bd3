"""Carries settlements out: at once when a frame is enough, and by a confirmed copy otherwise.

A retry, a requeue, a dead letter with the facts, and a message in quarantine are copies. A copy is published and
confirmed before the original is acked: a crash between the two duplicates the message, and nothing loses it. When no
copy can be published, a dead letter is rejected (basic.reject), if the broker is known to keep it then; a requeue whose
queue is full becomes a retry; every other message goes back to its queue after a pause. Such a return does not count as
an attempt. A user who may not publish to the default exchange loses no message, but failing messages are tried without
end, and the log has a line about it.

The broker may count the returns to a queue that others have declared, and drop the message after some. There the
delivery is held instead: it stays unsettled, keeps its place of the handler's concurrency, and its copy is tried again
after each pause. So a queue whose failing messages can be kept nowhere comes to rest. A hold ends with half of the
broker's consumer timeout, a drain, or the turn of a suspect to run alone. Then the delivery goes back.

Where order is promised, a requeue is no copy, since waiting messages would overtake it. It is another execution in the
same place; see `queues.Queue`.

A settlement that fails, because of a bug of ours or of application code in its way, costs only its own message: see
`rescue`.

This module knows nothing about handlers' code, deadlines and concurrency.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable

from mxworker.api.attempts import attempt_of
from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery, source_of
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.settlement import Reject, Settlement
from mxworker.backoff import COPY
from mxworker.board.metric_rows import ConsumerRow
from mxworker.board.metrics_layout import Outcome
from mxworker.board.suspects import Suspect
from mxworker.config.units import format_duration
from mxworker.errors import (
    BrokerError,
    DecodeError,
    PublishError,
    PublishNacked,
)
from mxworker.system.foreign_errors import error_in_words, text_of, type_name
from mxworker.system.log import LineBudget, say_safely
from mxworker.system.log_events import LogEvent, log_event
from mxworker.worker.handling.copies import Facts, KillFacts, retry_copy
from mxworker.worker.handling.copy_publisher import NO_COPY, CopyPublisher
from mxworker.worker.handling.delivery_log import GONE, DeliveryLog
from mxworker.worker.handling.endings import Again, Dead, Done, Later, ending
from mxworker.worker.handling.report import ACK

log = logging.getLogger(__name__)

# Plain numbers, since they are used for every ack: on Python 3.11 a member of an enum takes 0.3 us more.
_ACK, _STALE = int(Outcome.ACK), int(Outcome.STALE)
_OUTCOME_OF_KIND = {FailureKind.UNDECODABLE: Outcome.DECODE_ERROR, FailureKind.TIMEOUT: Outcome.TIMEOUT}
_NO_ERRORS = frozenset({FailureKind.REJECTED, FailureKind.UNSETTLED})


class Settling:
    """Settles the deliveries of one handler."""

    def __init__(
        self,
        handler: Handler,
        row: ConsumerRow,
        copies: CopyPublisher,
        rng: random.Random,
        run_next: Callable[[Delivery], None] = lambda delivery: None,
        on_success: Callable[[float], None] = lambda published_at: None,
        may_hold: Callable[[], bool] = lambda: True,
        delivery_log: DeliveryLog | None = None,
    ) -> None:
        """When copies are not possible, retries and requeues go back to the queue, and the broker dead-letters.

        `row` gets the outcome of each delivery. `run_next` puts a delivery that was executed before all others, to be
        executed again. `on_success` is called for each ack of a message of which it is known when it was published.
        `may_hold` tells whether deliveries of which no copy is taken may stay with the handler for long.
        """
        self._handler = handler
        self._max_attempts = handler.max_attempts
        self._row = row
        self._words = row.words
        self._copies = copies
        self._run_next = run_next
        self._on_success = on_success
        self._may_hold = may_hold
        self._longest_hold_s = handler.queue.consumer_timeout_s / 2  # from the receipt; the rest is for the last try
        self._rng = rng
        self._refusals = 0
        self._teller = delivery_log or DeliveryLog(handler)
        self._budgets: defaultdict[object, LineBudget] = defaultdict(LineBudget)  # one for each event of `_say`
        self._budgets["delivery_held"] = LineBudget(1, 60.0)  # a hold may be long, and tries again every few seconds

    def settle(self, delivery: Delivery, settlement: Settlement, alike: int = 1) -> Again | Later | Dead | None:
        """Settle at once and return None, or return the ending that needs `by_copy`.

        `alike` is the number of deliveries of a batch that share the settlement, for one log line; 0 when it is logged.
        """
        if settlement is ACK:
            self.acked(delivery)
            return None
        failure = settlement.failure
        if failure is not None and failure.kind not in _NO_ERRORS:
            self._row.failed(failure.error_type or failure.kind.value)
        attempt = attempt_of(delivery, self._max_attempts)
        ends = ending(settlement, attempt, self._handler.retry, self._rng)
        if alike:
            self._teller.tell(delivery, settlement, ends, attempt, alike)
        match ends:
            case Done() if failure is None:
                self.acked(delivery)
            case Done():
                self._count(Outcome.ACK, source_of(delivery).ack(delivery), failure)
            case Again() if self._handler.keeps_order:
                self._in_place(delivery, ends.failure)
            case Again() if not self._copies.are_possible:
                self._count(Outcome.REQUEUE, source_of(delivery).reject(delivery, requeue=True), ends.failure)
            case Again() | Later() | Dead():
                if not delivery.is_stale:
                    return ends
                self._count(Outcome.STALE, source_of(delivery).give_back(delivery))
        return None

    def acked(self, delivery: Delivery) -> None:
        """Ack a delivery. This is `settle` for an `Ack`."""
        was_sent = source_of(delivery).ack(delivery)
        self._words[_ACK if was_sent else _STALE] += 1
        if delivery.published_at and was_sent:
            self._on_success(delivery.published_at)
        if log.isEnabledFor(logging.DEBUG):
            self._tell(delivery, "acked" if was_sent else "settled too late, so the broker delivers it again")

    async def quarantine(self, delivery: Delivery, convict: Suspect, stack: str) -> bool:
        """Keep a copy of a message that kills workers, with the facts, and ack it. Return whether that was possible.

        The copy is in the quarantine, or in the dead-letter queue when there is no quarantine and we may not declare
        it. A cancelled call leaves the original unsettled.
        """
        queue = self._handler.queue
        facts = KillFacts(queue.name, self._handler.name, attempt_of(delivery, self._max_attempts), convict, stack)
        while True:
            try:
                kept_in = await self._copies.set_aside(delivery, facts)
            except (DecodeError, PublishError, BrokerError) as error:
                if isinstance(error, NO_COPY) and queue.dead_letters_itself:
                    kept_in = f"{queue.dead_letter_name}, without the facts ({error})"
                    was_sent = source_of(delivery).reject(delivery, requeue=False)
                    break
                if not await self._is_held(delivery, f"it kills workers, and no queue took a copy ({error})"):
                    return False
            else:
                was_sent = source_of(delivery).ack(delivery)
                break
        self._say(
            log_event("delivery_quarantined"),
            f"{facts.summary}; it is kept in queue {kept_in}",
            delivery,
            logging.ERROR,
        )
        self._count(Outcome.QUARANTINE, was_sent)
        return True

    def _in_place(self, delivery: Delivery, failure: Failure) -> None:
        """Execute an unsettled delivery again before any other, since waiting messages would overtake a copy.

        During a pause the delivery goes back, since another worker may already consume the queue. During a drain it
        waits, and goes back in its place when the channel is closed.
        """
        if not source_of(delivery).is_consumed:
            self._count(Outcome.REQUEUE, source_of(delivery).give_back(delivery), failure)
            return
        delivery.executed += 1
        self._count(Outcome.REQUEUE, was_sent=True, failure=failure)
        delivery.received_at = time.monotonic()  # its wait begins anew
        self._run_next(delivery)

    async def by_copy(self, delivery: Delivery, ends: Again | Later | Dead) -> None:
        """Publish a copy, and ack the original after the confirm. A cancelled call leaves the original unsettled."""
        while (why := await self._try(delivery, ends)) and await self._is_held(delivery, why, ends.failure):
            pass

    async def _try(self, delivery: Delivery, ends: Again | Later | Dead) -> str | None:
        """Settle a delivery by a copy. If none was taken and it is left unsettled, return why; otherwise None."""
        match ends:
            case Again():
                return await self._again(delivery, ends)
            case Later():
                return await self._later(delivery, ends)
            case Dead():
                return await self._dead_letter(delivery, ends)

    async def _again(self, delivery: Delivery, ends: Again) -> str | None:
        policy = self._handler.retry
        try:
            return await self._copy(delivery, ends, self._handler.queue.name, Outcome.REQUEUE)
        except (PublishError, BrokerError) as error:
            if isinstance(error, PublishNacked) and policy is not None:
                return await self._later(delivery, Later(policy.step_after_ms(0), ends.attempt, ends.failure))
            return f"its queue took no copy ({error})"

    async def rescue(self, delivery: Delivery, error: BaseException, is_cut: Callable[[BaseException], bool]) -> None:
        """Settle a delivery whose settlement failed with `error`. Raises nothing but a cancellation by a cut.

        The delivery becomes a dead letter with the facts of the failure. If that fails, too, or if there is no
        dead-letter queue, the delivery goes back to its queue after a pause. If it cannot be given back either, its
        channel is given up, so that the broker redelivers it. A cancellation for which `is_cut` is true leaves the
        original unsettled, and is raised.
        """
        source = source_of(delivery)
        for remedy in (self._bury, self._give_back_later):
            self._tell_of_fault(delivery, error)
            if not source.holds(delivery):
                return  # it was settled, and a later step failed
            try:
                await remedy(delivery, error)
                return
            except BaseException as fault:
                if is_cut(fault):
                    raise
                error = fault
        self._tell_of_fault(delivery, error)
        if source.holds(delivery):
            source.give_up(f"a delivery could not be settled: {error_in_words(error)}")

    async def _bury(self, delivery: Delivery, error: BaseException) -> None:
        """Make a dead letter of a delivery that could not be settled, or give it back when there can be none."""
        if delivery.is_stale or not self._handler.queue.dead_letter:
            await self._give_back_later(delivery, error)
        else:
            settlement = Reject()
            settlement.failure = Failure(FailureKind.UNSETTLED, type_name(error), text_of(error))
            ends = Dead(settlement.failure)
            self._teller.tell(delivery, settlement, ends, attempt_of(delivery, self._max_attempts))
            await self.by_copy(delivery, ends)

    async def _give_back_later(self, delivery: Delivery, error: BaseException) -> None:
        if delivery.is_stale:
            self._count(Outcome.STALE, source_of(delivery).give_back(delivery))
        else:
            await self._return(delivery, f"it could not be settled ({error_in_words(error)})")

    async def _later(self, delivery: Delivery, ends: Later) -> str | None:
        try:
            return await self._copy(delivery, ends, self._handler.queue.retry_name(ends.step_ms), Outcome.RETRY)
        except (PublishError, BrokerError) as error:
            return f"no retry queue took a copy ({error})"

    async def _copy(self, delivery: Delivery, ends: Again | Later, queue: str, outcome: Outcome) -> str | None:
        """Publish a copy for the next attempt to `queue`, and ack. Raises PublishError or BrokerError.

        A message that cannot be copied becomes a dead letter. For the result see `_try`.
        """
        try:
            await self._copies.publish(retry_copy(delivery, ends.attempt), queue)
        except NO_COPY as error:
            becomes = "it is a dead letter now" if self._handler.queue.dead_letter else GONE
            self._say(
                log_event("retry_not_copied"),
                f"cannot be copied for another attempt ({error}): {becomes}",
                delivery,
            )
            return await self._dead_letter(delivery, Dead(ends.failure))
        self._refusals = 0
        self._count(outcome, source_of(delivery).ack(delivery), ends.failure)
        return None

    async def _dead_letter(self, delivery: Delivery, ends: Dead) -> str | None:
        attempt = attempt_of(delivery, self._max_attempts)
        queue = self._handler.queue
        if not queue.dead_letter:
            self._count(Outcome.REJECT, source_of(delivery).reject(delivery, requeue=False), ends.failure)
            return None
        try:
            await self._copies.dead_letter(delivery, self._facts(attempt, ends))
        except (DecodeError, PublishError, BrokerError) as error:
            if not queue.dead_letters_itself:
                return f"the dead-letter queue took no copy ({error})"
            self._say(
                log_event("dead_letter_not_copied"),
                f"is dead-lettered by the broker, without the facts ({error})",
                delivery,
            )
            self._count(Outcome.REJECT, source_of(delivery).reject(delivery, requeue=False), ends.failure)
        else:
            self._refusals = 0
            self._count(Outcome.REJECT, source_of(delivery).ack(delivery), ends.failure)
        return None

    async def _is_held(self, delivery: Delivery, why: str, failure: Failure | None = None) -> bool:
        """Pause after no copy was taken. Return whether the copy may be tried again; if not, the delivery went back."""
        if not self._can_hold(delivery):
            await self._return(delivery, why, failure)
            return False
        self._say(
            log_event("delivery_held"),
            f"is held, because {why}. The copy is tried again, for {format_duration(self._longest_hold_s)} at most; "
            "meanwhile the message keeps a place of its handler. Let the queue take it: make room in a full queue, "
            "declare a missing one, or give RabbitMQ the memory or disk that it lacks",
            delivery,
        )
        await self._pause()
        if self._can_hold(delivery):
            return True
        self._count(Outcome.REQUEUE, source_of(delivery).give_back(delivery), failure)
        return False

    def _can_hold(self, delivery: Delivery) -> bool:
        if self._handler.queue.keeps_returned or not self._copies.are_possible or not self._may_hold():
            return False
        return not delivery.is_stale and time.monotonic() < delivery.received_at + self._longest_hold_s

    async def _return(self, delivery: Delivery, why: str, failure: Failure | None = None) -> None:
        """Give a delivery back after a pause, since the broker redelivers it at once."""
        self._say(log_event("delivery_returned"), f"goes back to its queue: {why}", delivery)
        await self._pause()
        self._count(Outcome.REQUEUE, source_of(delivery).give_back(delivery), failure)

    async def _pause(self) -> None:
        self._refusals += 1
        await asyncio.sleep(COPY.delay_s(self._refusals, self._rng))

    def _facts(self, attempt: int, ends: Dead) -> Facts:
        return Facts(
            queue=self._handler.queue.name,
            handler=self._handler.name,
            attempt=attempt,
            kind=ends.failure.kind,
            error_type=ends.failure.error_type,
            error_text=ends.failure.text,
            at_s=int(time.time()),
        )

    def _count(self, outcome: Outcome, was_sent: bool, failure: Failure | None = None) -> None:
        """Count the outcome of a delivery; a `failure` may have one of its own, see `Outcome`."""
        if failure is not None:
            outcome = _OUTCOME_OF_KIND.get(failure.kind, outcome)
        self._words[outcome if was_sent else Outcome.STALE] += 1

    def _tell(self, delivery: Delivery, how: str) -> None:
        message = delivery.shown_id or f"(no id, delivery tag {delivery.delivery_tag})"
        say_safely(
            log,
            logging.DEBUG,
            "handler %s: message %s of queue %s is %s",
            self._handler.name,
            message,
            self._handler.queue.name,
            how,
        )

    def _tell_of_fault(self, delivery: Delivery, error: BaseException) -> None:
        what = f"could not be settled: {error_in_words(error)}"
        self._say(log_event("delivery_unsettled"), what, delivery, logging.ERROR, error)

    def _say(
        self,
        event: LogEvent,
        what: str,
        delivery: Delivery,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        more = self._budgets[event["event"]].spend(time.monotonic())
        if more is not None:
            queue = self._handler.queue.name
            say_safely(
                log,
                level,
                "message %s of queue %s %s%s",
                delivery.shown_id or f"(no id, delivery tag {delivery.delivery_tag})",
                queue,
                what,
                more,
                error=error,
                fields=event | {"handler": self._handler.name, "queue": queue, "message_id": delivery.shown_id},
            )
