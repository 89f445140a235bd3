"""Why a delivery did not succeed, as a value: for the log, the dead letter's facts and the counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FailureKind(StrEnum):
    """What went wrong. The text is what a dead letter says in `mx-reason`."""

    FAILED = "failed"
    """The handler raised, or returned what is no settlement."""
    TIMEOUT = "timeout"
    """The handler ran out of time."""
    CANCELLED = "cancelled"
    """The handler ended by a cancellation of its own."""
    LOST = "lost"
    """The process that ran the handler died."""
    UNDECODABLE = "undecodable"
    """The body is not what the handler takes."""
    REJECTED = "rejected"
    """The handler itself refused the delivery, or asked for another attempt."""
    UNSETTLED = "unsettled"
    """The handler came to its end, and mxworker failed at what was to become of the delivery."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure. `error_type` is the exception's name, "" when there was none; `text` is for people.

    `trace` is the traceback of one that happened in another process, "" when there is none, or the exception is here.
    """

    kind: FailureKind
    error_type: str
    text: str
    trace: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.error_type, self.text) if part) or self.kind
