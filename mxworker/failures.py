"""Why a delivery did not succeed, as a value: for the log, the dead letter's facts and the counters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """What went wrong. The text is what a dead letter says in `mx-reason`."""

    FAILED = "failed"
    """The handler raised."""
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


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure. `error_type` is the exception's name, "" when there was none; `text` is for people."""

    kind: FailureKind
    error_type: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.error_type, self.text) if part) or self.kind


def text_of(error: BaseException) -> str:
    """Return what `error` says. Its `__str__` is the application's code, and may fail, too."""
    try:
        return str(error)
    except Exception:
        return "(its text cannot be shown)"
