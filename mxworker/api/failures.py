"""The reason why a delivery did not succeed, as a value for the log, the headers of a dead letter and the counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FailureKind(StrEnum):
    """The kind of a failure. The text is in the header `mx-reason` of a dead letter."""

    FAILED = "failed"
    """The handler raised an exception, or returned a value that is no settlement."""
    TIMEOUT = "timeout"
    """The handler ran out of time."""
    CANCELLED = "cancelled"
    """The handler ended by a cancellation of its own."""
    LOST = "lost"
    """The process that ran the handler died."""
    UNDECODABLE = "undecodable"
    """The body does not match the handler's annotation."""
    REJECTED = "rejected"
    """The handler itself refused the delivery, or asked for another attempt."""
    UNSETTLED = "unsettled"
    """The handler ended, but mxworker failed to settle the delivery."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure. `error_type` is the name of the exception, "" when there was none; `text` is for people.

    `trace` is the traceback of an exception in another process, and "" otherwise.
    """

    kind: FailureKind
    error_type: str
    text: str
    trace: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.error_type, self.text) if part) or self.kind
