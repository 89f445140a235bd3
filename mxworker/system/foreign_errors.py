"""Turn exceptions and reasons of an application into text, safely.

Such a value may have any type, a `__str__` that fails, any length, and characters that no log line may hold. No
function here raises because of it, unless it says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TypeGuard, TypeVar

from mxworker.system.printable import CUT, printable

Kind = TypeVar("Kind", bound=BaseException)

TEXT_CHARACTERS = 2000
"""The most characters of a text, which is more than a log line or a dead letter shows."""

_SHOWN_ERRORS = 20  # of a group
_UNSHOWN = "(its text cannot be shown)"
# These bypass the attributes that a class, or its metaclass, may define in their place.
_type_name = type.__dict__["__name__"].__get__
_traceback = BaseException.__dict__["__traceback__"].__get__


def text_of(value: object) -> str:
    """Return the text of `value`, printable and cut at `TEXT_CHARACTERS`; never raises.

    The text of an exception group lists its exceptions.
    """
    text, mark = _cut_text(value)
    return printable(text) + mark


def lines_of(value: object) -> list[str]:
    """Return the text of `value` as lines, at least one; otherwise like `text_of`."""
    text, mark = _cut_text(value)
    *lines, last = text.splitlines() or [""]
    return [*map(printable, lines), printable(last) + mark]


def _cut_text(value: object) -> tuple[str, str]:
    """Return the beginning of the text of `value`, and `CUT` or "" to append."""
    try:
        text = _text(value)
    except BaseException:  # the code of `value` is the application's, and may raise anything
        text = _UNSHOWN
    return text[:TEXT_CHARACTERS], CUT if len(text) > TEXT_CHARACTERS else ""


def reason_of(reason: object) -> str:
    """Return the text of a reason as `text_of` does, for an exception with its type; "" for None."""
    if reason is None:
        return ""
    if isinstance(reason, BaseException):
        return error_in_words(reason)
    return text_of(reason)


def error_in_words(error: BaseException) -> str:
    """Return `ValueError: no`, or only the type when the error has no text."""
    text = text_of(error)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def type_name(value: object) -> str:
    """Return the name of the type of `value`, printable; never raises."""
    return text_of(_type_name(type(value)))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of `error`, None when `error` was not raised; never raises."""
    traceback: TracebackType | None = _traceback(error)
    return traceback


def is_a(error: BaseException, kind: type[Kind]) -> TypeGuard[Kind]:
    """Tell whether `error` is of a kind. Never raises; `isinstance` may, for it asks the error's `__class__`."""
    return issubclass(type(error), kind)


def errors_in(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group at any depth, or `error` itself when it is no group."""
    left = [error]
    while left:
        each = left.pop()
        if is_a(each, BaseExceptionGroup):
            left += reversed(each.exceptions)
        else:
            yield each


def _text(value: object) -> str:
    """Return the text of `value`. Raises whatever the code of `value` raises."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[: TEXT_CHARACTERS + 1]).decode("utf-8", "backslashreplace")
    if isinstance(value, BaseExceptionGroup):
        return _all_told(value)
    text = value if isinstance(value, str) else str(value)
    return str.__str__(text)  # `text` may be of a subclass of str that overrides methods


def _all_told(group: BaseExceptionGroup[BaseException]) -> str:
    errors = list(errors_in(group))
    told = [error_in_words(error) for error in errors[:_SHOWN_ERRORS]]
    more = [f"{len(errors) - len(told)} more"] if len(errors) > len(told) else []
    return "; ".join(told + more)
