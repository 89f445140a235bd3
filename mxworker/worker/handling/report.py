"""The settlement of a delivery, from the outcome of its handler or from a failure.

This module knows nothing about attempts, and so about the final ending, which `endings` decides.
"""

from __future__ import annotations

import logging
from typing import assert_never

from mxworker.api.compilation import Handler
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement
from mxworker.errors import DecodeError
from mxworker.system.foreign_errors import errors_in, text_of, type_name
from mxworker.system.log import say_safely
from mxworker.system.log_events import log_event
from mxworker.worker.handling.outcomes import UnknownOutcome, alone_in, by_position, is_for_all, unknown

log = logging.getLogger(__name__)

ACK = Ack()  # shared: a settlement that is not raised is only looked at


class Report:
    """Turns the ends of one handler's deliveries into settlements.

    A settlement for a failure has the exception as its `__cause__`, if there is one.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._has_warned_of_delay = False

    # ---- outcomes of the handler

    def settled(self, outcome: object) -> Settlement:
        """Return the settlement that a handler returned or raised. A class stands for a new instance.

        The result is an instance of one of the four classes, with texts as reasons, also for subclasses that the
        application made. A returned or raised exception is a failure, and so is any value that is no settlement. A
        group of exceptions that holds one settlement and nothing else counts as that settlement.
        """
        if isinstance(outcome, type) and issubclass(outcome, Settlement):
            outcome = outcome()
        if isinstance(outcome, BaseExceptionGroup):
            outcome = alone_in(outcome) or outcome
        match outcome:
            case None | Ack():
                return ACK
            case Requeue():
                return Requeue()
            case Retry():
                retry = Retry(outcome.after_s, outcome.reason)
                self._check_delay(retry)
                return retry
            case Reject():
                return Reject(outcome.reason)
            case BaseException():  # also a settlement of the application's own making: the set is closed
                return self.failed(outcome)
            case _:
                return self.failed(unknown(outcome))

    def batch_settled(self, count: int, outcome: object) -> list[Settlement]:
        """Return a settlement for each of `count` deliveries, from the outcome of the handler for their batch.

        Raises UnknownOutcome when the outcome is neither one for all nor one for each.
        """
        if is_for_all(outcome):
            return [self.settled(outcome)] * count
        return [self._one_settled(each) for each in by_position(outcome, count)]

    def _one_settled(self, outcome: object) -> Settlement:
        """Do as `settled` does. An outcome whose own code raises fails alone."""
        try:
            return self.settled(outcome)
        except Exception as error:
            return self.failed(error)

    def _check_delay(self, retry: Retry) -> None:
        """Warn once when a handler asks for a longer delay than that of its last retry queue."""
        policy = self._handler.retry
        if policy is None or retry.after_s is None or self._has_warned_of_delay:
            return
        longest_s = policy.steps_ms[-1] / 1000
        if retry.after_s > longest_s:
            self._has_warned_of_delay = True
            say_safely(
                log,
                logging.WARNING,
                "handler %s asked for a retry after %g s; its longest delay is %g s, and that is what it gets. "
                "Add a step to RetryPolicy(delays=...)",
                self._handler.name,
                retry.after_s,
                longest_s,
                fields=log_event("retry_delay_capped", handler=self._handler.name, longest_s=longest_s),
            )

    # ---- failures

    def undecodable(self, error: DecodeError) -> Settlement:
        """Reject a delivery without a retry, since the same bytes would not decode the next time either."""
        text = text_of(error)
        settlement = Reject(text)
        settlement.failure = Failure(FailureKind.UNDECODABLE, type_name(error), text)
        return settlement

    def failed(self, error: BaseException) -> Settlement:
        """Return the settlement of a delivery, or of each of a batch, whose handler raised an exception."""
        failure = Failure(FailureKind.FAILED, type_name(error), text_of(error))
        settlement = self._judged(failure, self._is_rejected(error))
        if type(error) is UnknownOutcome:  # by its type: `isinstance` also reads the application's `__class__`
            error.__traceback__ = None  # it only has frames of ours
        settlement.__cause__ = error
        return settlement

    def cancelled(self, timed_out: bool) -> Settlement:
        """Return the settlement of a delivery whose handler was cancelled: by the deadline, or by itself."""
        if timed_out:
            failure = Failure(FailureKind.TIMEOUT, "", f"timed out after {self._handler.timeout_s:g} s")
        else:
            failure = Failure(FailureKind.CANCELLED, "", "cancelled itself")
        return self._judged(failure, timed_out and issubclass(TimeoutError, self._handler.reject_on))

    def lost(self, why: str) -> Settlement:
        """Return the settlement of a delivery whose process died."""
        return self._judged(Failure(FailureKind.LOST, "", text_of(why)), is_rejected=False)

    def _is_rejected(self, error: BaseException) -> bool:
        """Whether `reject_on` names an exception, or all exceptions of a group."""
        reject_on = self._handler.reject_on
        if not reject_on:
            return False
        return issubclass(type(error), reject_on) or all(issubclass(type(each), reject_on) for each in errors_in(error))

    def _judged(self, failure: Failure, is_rejected: bool) -> Settlement:
        """Return the settlement that the handler's options have for a failure."""
        policy = self._handler.on_error
        settlement: Settlement
        if is_rejected or policy == "reject":
            settlement = Reject(str(failure))
        elif policy == "retry":
            settlement = Retry()
        elif policy == "requeue":
            settlement = Requeue()
        elif policy == "ack":
            settlement = Ack()
        else:
            assert_never(policy)
        settlement.failure = failure
        return settlement
