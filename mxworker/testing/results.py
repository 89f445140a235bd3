"""How deliveries ended, and whether a test has expected it.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from mxworker.api.delivery import Delivery
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.settlement import Settlement
from mxworker.errors import DecodeError

Expected = type[BaseException] | tuple[type[BaseException], ...]
"""Classes of settlements, such as `Retry`, or of exceptions, such as `ConnectionError`. One of them has to match."""


class HandlerFailed(Exception):
    """A handler ended in a way that is no exception which a test could get: it was cancelled, or wanted to exit."""


@dataclass(frozen=True)
class Result:
    """The end of one execution of a message.

    `settlement` is what the handler chose, or what its options have for its failure. `error` is what it raised; or
    DecodeError for a body that it cannot take, TimeoutError when its time was up; None when it chose the settlement
    itself. `attempt` counts the executions of the message from 1.
    """

    settlement: Settlement
    error: Exception | None
    queue: str
    handler: str
    attempt: int
    delivery: Delivery

    @property
    def message_id(self) -> str | None:
        """The id of the message."""
        return self.delivery.message_id

    @property
    def key(self) -> tuple[str, str | None]:
        """What a test knows the message by."""
        return self.queue, self.message_id

    def is_as(self, expected: Expected) -> bool:
        """Tell whether its settlement or its error is of an expected class."""
        return isinstance(self.settlement, expected) or isinstance(self.error, expected)

    def __str__(self) -> str:
        how = "" if self.error is None else f" for {self.error!r}"
        settlement = f"{type(self.settlement).__name__}({str(self.settlement) or ''})"
        return f"{self.handler}() of queue {self.queue!r}, attempt {self.attempt}: {settlement}{how}"


def error_of(settlement: Settlement) -> Exception | None:
    """Return the error that a settlement is for; None when the handler chose it."""
    failure, cause = settlement.failure, settlement.__cause__
    if failure is None:
        return None
    if isinstance(cause, Exception):
        return cause
    error = _without_cause(failure)
    error.__cause__ = cause  # SystemExit and the like, which must not end the test run
    return error


def _without_cause(failure: Failure) -> Exception:
    match failure.kind:
        case FailureKind.UNDECODABLE:
            return DecodeError(failure.text)
        case FailureKind.TIMEOUT:
            return TimeoutError(failure.text)
        case _:
            return HandlerFailed(str(failure))


def judge(results: Sequence[Result], expected: Expected | None) -> None:
    """Raise the first error that was not expected, or AssertionError when nothing ended as expected."""
    failures = [result for result in results if result.error is not None]
    unexpected = [failure for failure in failures if expected is None or not failure.is_as(expected)]
    if unexpected:
        _fail(unexpected, expected)
    if expected is not None and not any(result.is_as(expected) for result in results):
        ends = "\n".join(f"  {result}" for result in results) or "  no delivery ended"
        raise AssertionError(f"expected {_named(expected)}, but:\n{ends}")


def _fail(failures: Sequence[Result], expected: Expected | None) -> NoReturn:
    """Raise the error of the first failure, with its own traceback and a note about its message."""
    first, *others = failures
    assert first.error is not None
    instead = "" if expected is None else f" (expected: {_named(expected)})"
    first.error.add_note(f"in {first}{instead}")
    for other in others:
        first.error.add_note(f"also in {other}")
    raise first.error


def _named(expected: Expected) -> str:
    classes = expected if isinstance(expected, tuple) else (expected,)
    return " or ".join(each.__name__ for each in classes)
