"""What a delivery's unusual end means: the settlement for it, and one line in the log.

Lines of one kind are limited to ten in ten seconds per handler: a queue full of bad messages must not fill the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import assert_never

from mxworker.compilation import Handler
from mxworker.copies import attempt_of
from mxworker.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.failures import Failure, FailureKind, text_of
from mxworker.log import LineBudget
from mxworker.settlement import Ack, Reject, Requeue, Retry, Settlement

log = logging.getLogger(__name__)

ACK = Ack()  # shared: a returned settlement is only looked at, never raised


class Report:
    """Judges and reports, for one handler, what did not end in a plain ack."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._refused = LineBudget()
        self._undecodable = LineBudget()
        self._failed = LineBudget()
        self._cancelled = LineBudget()
        self._has_warned = False
        self._has_warned_of_delay = False

    # ---- what the handler said

    def settled(self, delivery: Delivery, outcome: object) -> Settlement:
        """Return what the handler returned or raised, if it is a settlement; its class means a fresh one of it.

        An exception is a failure, returned or raised.
        """
        if isinstance(outcome, type) and issubclass(outcome, Settlement):
            outcome = outcome()
        match outcome:
            case Reject():
                self._line(self._refused, logging.INFO, "rejected", [delivery], outcome.reason or "no reason given")
            case Retry():
                self._check_delay(outcome)
            case Ack() | Requeue():
                pass
            case BaseException():  # also a settlement of the application's own making: the set is closed
                return self.failed(delivery, outcome)
            case _:
                return self._meaningless(outcome)
        return outcome

    def batch_settled(self, deliveries: Sequence[Delivery], outcome: object) -> list[Settlement]:
        """Return a settlement for each delivery from what the handler made of their batch.

        Raises ValueError when it returned a list that does not match.
        """
        if outcome is None:
            return [ACK] * len(deliveries)
        if not isinstance(outcome, list | tuple):
            return [self.settled(delivery, outcome) for delivery in deliveries]
        if len(outcome) != len(deliveries):
            raise ValueError(f"the handler returned {len(outcome)} settlements for {len(deliveries)} payloads")
        return [
            ACK if settlement is None else self.settled(delivery, settlement)
            for delivery, settlement in zip(deliveries, outcome, strict=True)
        ]

    def _check_delay(self, retry: Retry) -> None:
        """Warn once when a handler wants to wait longer than any retry queue lets it."""
        policy = self._handler.retry
        if policy is None or retry.after_s is None or self._has_warned_of_delay:
            return
        longest_s = policy.steps_ms[-1] / 1000
        if retry.after_s > longest_s:
            self._has_warned_of_delay = True
            log.warning(
                "handler %s asked for a retry after %g s; its longest delay is %g s, and that is what it gets. "
                "Add a step to RetryPolicy(delays=...)",
                self._handler.name,
                retry.after_s,
                longest_s,
            )

    def _meaningless(self, outcome: object) -> Settlement:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "handler %s returned %s, which means nothing to mxworker; the delivery is acked. "
                "Return None, Ack(), Requeue(), Retry() or Reject()",
                self._handler.name,
                type(outcome).__name__,
            )
        return ACK

    # ---- what went wrong

    def undecodable(self, delivery: Delivery, error: DecodeError) -> Settlement:
        """Reject at once: the same bytes would not decode the next time either."""
        self._line(self._undecodable, logging.WARNING, "cannot decode", [delivery], str(error))
        settlement = Reject(str(error))
        settlement.failure = Failure(FailureKind.UNDECODABLE, type(error).__name__, str(error))
        return settlement

    def failed(self, delivery: Delivery, error: BaseException) -> Settlement:
        """Return what becomes of a delivery whose handler raised."""
        return self.batch_failed([delivery], error)

    def batch_failed(self, deliveries: Sequence[Delivery], error: BaseException) -> Settlement:
        """Return what becomes of each delivery of a batch whose handler raised."""
        failure = Failure(FailureKind.FAILED, type(error).__name__, text_of(error))
        self._line(self._failed, logging.ERROR, "failed on", deliveries, str(failure), error)
        return self._judged(failure, type(error))

    def cancelled(self, delivery: Delivery, timed_out: bool) -> Settlement:
        """Return what becomes of a delivery whose handler was cancelled: by the deadline, or by itself."""
        return self.batch_cancelled([delivery], timed_out)

    def batch_cancelled(self, deliveries: Sequence[Delivery], timed_out: bool) -> Settlement:
        """Return what becomes of each delivery of a batch whose handler ended by a cancellation."""
        if timed_out:
            failure = Failure(FailureKind.TIMEOUT, "", f"timed out after {self._handler.timeout_s:g} s")
        else:
            failure = Failure(FailureKind.CANCELLED, "", "cancelled itself")
        self._line(self._cancelled, logging.ERROR, "was stopped on", deliveries, failure.text)
        return self._judged(failure, TimeoutError if timed_out else None)

    def lost(self, delivery: Delivery, why: str) -> Settlement:
        """Return what becomes of a delivery whose process died with it."""
        failure = Failure(FailureKind.LOST, "", why)
        self._line(self._failed, logging.ERROR, "was lost with", [delivery], why)
        return self._judged(failure, None)

    def _judged(self, failure: Failure, error_type: type[BaseException] | None) -> Settlement:
        """Return the settlement that the handler's policy has for a failure."""
        policy = self._handler.on_error
        settlement: Settlement
        if error_type is not None and issubclass(error_type, self._handler.reject_on):
            settlement = Reject(str(failure))
        elif policy == "retry":
            settlement = Retry()
        elif policy == "reject":
            settlement = Reject(str(failure))
        elif policy == "requeue":
            settlement = Requeue()
        elif policy == "ack":
            settlement = Ack()
        else:
            assert_never(policy)
        settlement.failure = failure
        return settlement

    def _line(
        self,
        budget: LineBudget,
        level: int,
        what: str,
        deliveries: Sequence[Delivery],
        why: str,
        error: BaseException | None = None,
    ) -> None:
        more = budget.spend(time.monotonic())
        if more is None:
            return
        first = deliveries[0]
        others = f" and {len(deliveries) - 1} more" if len(deliveries) > 1 else ""
        log.log(
            level,
            "handler %s %s message %s%s of queue %s, attempt %d: %s%s",
            self._handler.name,
            what,
            first.message_id or f"(no id, delivery tag {first.delivery_tag})",
            others,
            self._handler.queue.name,
            attempt_of(first, self._handler.max_attempts),
            why,
            more,
            exc_info=error,
        )
