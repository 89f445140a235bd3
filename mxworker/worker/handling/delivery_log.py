"""The log line of a delivery that did not end in a plain ack. It is written when the delivery's outcome is decided.

Lines of one kind are limited to ten in ten seconds per handler, so that a queue full of bad messages does not fill the
disk; one more line then counts the rest. Dead letters and dropped messages have limits of their own. Otherwise the
lines of retries would use up the limit.

This module knows nothing about carrying out settlements.
"""

from __future__ import annotations

import logging
import time

from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery
from mxworker.api.failures import FailureKind
from mxworker.api.settlement import Ack, Reject, Requeue, Settlement
from mxworker.system.foreign_errors import traceback_of
from mxworker.system.log import LineBudget, say_safely
from mxworker.system.log_events import log_event
from mxworker.system.tracebacks import trace_of
from mxworker.worker.handling.endings import Again, Dead, Done, Ending, Later

log = logging.getLogger(__name__)

_ENDED = {
    FailureKind.FAILED: ("failed on", logging.ERROR),
    FailureKind.TIMEOUT: ("was stopped on", logging.ERROR),
    FailureKind.CANCELLED: ("was stopped on", logging.ERROR),
    FailureKind.LOST: ("was lost with", logging.ERROR),
    FailureKind.UNSETTLED: ("could not settle", logging.ERROR),
    FailureKind.UNDECODABLE: ("cannot decode", logging.WARNING),
}
_REST = {
    "dead_letter": "became dead letters",
    "gone": "are gone, since the queue has no dead-letter queue",
    FailureKind.FAILED: "failed",
    FailureKind.TIMEOUT: "were stopped",
    FailureKind.CANCELLED: "were stopped",
    FailureKind.LOST: "were lost with their process",
}
GONE = "it is gone, since the queue has no dead-letter queue"


class DeliveryLog:
    """Logs the ends of one handler's deliveries."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._budgets: dict[str, LineBudget] = {}  # one for each kind, and for "dead_letter" and "gone"

    def tell(self, delivery: Delivery, settlement: Settlement, ends: Ending, attempt: int, alike: int = 1) -> None:
        """Log a delivery whose settlement means `ends`, after execution number `attempt`.

        `alike` is the number of deliveries of a batch that ended in the same way, this one included.
        """
        failure = settlement.failure
        if failure is not None:
            what, level = _ENDED.get(failure.kind, ("failed on", logging.ERROR))
            kind: str = failure.kind
        elif isinstance(settlement, Ack):
            return
        elif isinstance(settlement, Reject):
            what, level, kind = "rejected", logging.WARNING, "rejected"
        else:  # the handler asked for another attempt, which is a warning only when it gets none
            what, kind = "asked for another attempt at", "again"
            level = logging.WARNING if isinstance(ends, Dead) else logging.DEBUG
        outcome, text = self._outcome(delivery, ends)
        if not log.isEnabledFor(level):
            return
        budget = self._budgets.setdefault(outcome if isinstance(ends, Dead) else kind, LineBudget())
        more = budget.spend(time.monotonic(), alike)
        if more is None:
            return
        reason = failure or (ends.failure.text if isinstance(ends, Again | Later | Dead) else "no reason given")
        named = delivery.shown_id or f"(no id, delivery tag {delivery.delivery_tag})"
        # Without retries only a requeue makes further attempts.
        is_bounded = self._handler.retry is not None or isinstance(settlement, Requeue)
        most = self._handler.max_attempts if is_bounded else attempt
        error = settlement.__cause__
        if error is not None and traceback_of(error) is None:  # it was returned and never raised, so its text says all
            error = None
        say_safely(
            log,
            level,
            "handler %s %s message %s%s of queue %s, attempt %d of %d, %s: %s%s",
            self._handler.name,
            what,
            named,
            f" and {alike - 1} more" if alike > 1 else "",
            self._handler.queue.name,
            attempt,
            most,
            text,
            reason,
            more,
            error=error,
            trace=trace_of(error) if error is not None else failure.trace if failure is not None else "",
            fields=log_event("delivery_ended")
            | {
                "handler": self._handler.name,
                "queue": self._handler.queue.name,
                "message_id": delivery.shown_id,
                "attempt": attempt,
                "max_attempts": most,
                "outcome": outcome,
                "error_type": failure.error_type if failure is not None else "",
                "error": failure.text if failure is not None else str(reason),
            }
            | ({"retry_in_s": ends.step_ms / 1000} if outcome == "retry" and isinstance(ends, Later) else {}),
        )

    def tell_rest(self, now: float) -> None:
        """Log how many deliveries had no line because of the limits. Call it every few seconds; `now` is monotonic."""
        for kind, budget in self._budgets.items():
            count = budget.rest(now)
            if count:
                say_safely(
                    log,
                    logging.WARNING,
                    "handler %s: %d more messages of queue %s %s",
                    self._handler.name,
                    count,
                    self._handler.queue.name,
                    _REST.get(kind, "had to be tried again"),
                    fields=log_event(
                        "deliveries_ended",
                        handler=self._handler.name,
                        queue=self._handler.queue.name,
                        deliveries=count,
                        kind=str(kind),
                    ),
                )

    def _outcome(self, delivery: Delivery, ends: Ending) -> tuple[str, str]:
        """Return the outcome of a delivery, as the word of the field `outcome` and as text."""
        match ends:
            case Done():
                return "ack", "it is acked all the same"
            case _ if delivery.is_stale:
                return "stale", "the broker delivers it again, for its channel was lost"
            case Again():
                return "requeue", "again at once"
            case Later():
                return "retry", f"again in {ends.step_ms / 1000:g} s"
            case Dead():
                return ("dead_letter", "it is a dead letter now") if self._handler.queue.dead_letter else ("gone", GONE)
