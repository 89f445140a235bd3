"""What a delivery's unusual end means: the settlement for it, and one line in the log.

Lines of one kind are limited to ten in ten seconds per handler: a queue full of bad messages must not fill the disk.
"""

from __future__ import annotations

import logging
import time

from mxworker.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.handlers import Handler
from mxworker.log import LineBudget
from mxworker.settlement import Ack, Reject, Settlement

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

    def settled(self, delivery: Delivery, outcome: object) -> Settlement:
        """Return what the handler returned or raised, if it is a settlement; its class means a fresh one of it."""
        if isinstance(outcome, type) and issubclass(outcome, Settlement):
            outcome = outcome()
        if isinstance(outcome, Reject):
            self._line(self._refused, logging.INFO, "rejected", delivery, outcome.reason or "no reason given")
        if isinstance(outcome, Settlement):
            return outcome
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "handler %s returned %s, which means nothing to mxworker; the delivery is acked. "
                "Return None, Ack(), Requeue() or Reject()",
                self._handler.name,
                type(outcome).__name__,
            )
        return ACK

    def undecodable(self, delivery: Delivery, error: DecodeError) -> Settlement:
        """Reject at once: the same bytes would not decode the next time either."""
        self._line(self._undecodable, logging.WARNING, "cannot decode", delivery, str(error))
        return Reject(str(error))

    def failed(self, delivery: Delivery, error: BaseException) -> Settlement:
        """Reject a delivery whose handler raised."""
        text = f"{type(error).__name__}: {_text_of(error)}"
        self._line(self._failed, logging.ERROR, "failed on", delivery, text, error)
        return Reject(text)

    def cancelled(self, delivery: Delivery, timed_out: bool) -> Settlement:
        """Reject a delivery whose handler ended by a cancellation: the deadline's, or one that it made itself."""
        why = f"timed out after {self._handler.timeout_s:g} s" if timed_out else "cancelled itself"
        self._line(self._cancelled, logging.ERROR, "was stopped on", delivery, why)
        return Reject(why)

    def _line(
        self,
        budget: LineBudget,
        level: int,
        what: str,
        delivery: Delivery,
        why: str,
        error: BaseException | None = None,
    ) -> None:
        more = budget.spend(time.monotonic())
        if more is None:
            return
        log.log(
            level,
            "handler %s %s message %s of queue %s: %s%s",
            self._handler.name,
            what,
            delivery.message_id or f"(no id, delivery tag {delivery.delivery_tag})",
            self._handler.queue.name,
            why,
            more,
            exc_info=error,
        )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # `__str__` is the application's code, too
        return "(its text cannot be shown)"
