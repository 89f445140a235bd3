"""What applications raise, or give as a reason, made text: whatever it is, and whatever its own code does.

It may be of any type, have a `__str__` that fails, be long beyond measure, or hold what no line of a log may hold. None
of the functions here raises for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TypeGuard, TypeVar

from mxworker.system.printable import CUT, printable

Kind = TypeVar("Kind", bound=BaseException)

TEXT_CHARACTERS = 2000
"""How long a text may be: more than a log line and a dead letter show of it."""

_SHOWN_ERRORS = 20  # of a group
_UNSHOWN = "(its text cannot be shown)"
# A class, or its metaclass, may have put something of its own in their place.
_type_name = type.__dict__["__name__"].__get__
_traceback = BaseException.__dict__["__traceback__"].__get__


def text_of(value: object) -> str:
    """Return what `value` says, printable and cut at `TEXT_CHARACTERS`; never raises.

    Of a group of exceptions, each is told.
    """
    text, mark = _cut_text(value)
    return printable(text) + mark


def lines_of(value: object) -> list[str]:
    """Return the lines of what `value` says, one at least, where there is room for several; else as `text_of`."""
    text, mark = _cut_text(value)
    *lines, last = text.splitlines() or [""]
    return [*map(printable, lines), printable(last) + mark]


def _cut_text(value: object) -> tuple[str, str]:
    """Return the beginning of what `value` says, and what marks that it is cut, if it is."""
    try:
        text = _text(value)
    except BaseException:  # its code is the application's, and may raise anything
        text = _UNSHOWN
    return text[:TEXT_CHARACTERS], CUT if len(text) > TEXT_CHARACTERS else ""


def reason_of(reason: object) -> str:
    """Return the text of what was given as a reason, as `text_of`; an exception is told with its type."""
    if reason is None:
        return ""
    if isinstance(reason, BaseException):
        return error_in_words(reason)
    return text_of(reason)


def error_in_words(error: BaseException) -> str:
    """Return `ValueError: no`, or the type alone where there is no text."""
    text = text_of(error)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def type_name(value: object) -> str:
    """Return the name of the type of `value`, printable; never raises."""
    return text_of(_type_name(type(value)))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of `error`, None when it was not raised; never raises."""
    traceback: TracebackType | None = _traceback(error)
    return traceback


def is_a(error: BaseException, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether `error` is of a kind; never raises, as `isinstance` may, which asks the error's own `__class__` too."""
    return issubclass(type(error), kind)


def errors_in(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a group holds, however deep it is nested; of any other, itself alone."""
    left = [error]
    while left:
        each = left.pop()
        if is_a(each, BaseExceptionGroup):
            left += reversed(each.exceptions)
        else:
            yield each


def _text(value: object) -> str:
    """Return what `value` says. Raises whatever its code raises."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[: TEXT_CHARACTERS + 1]).decode("utf-8", "backslashreplace")
    if isinstance(value, BaseExceptionGroup):
        return _all_told(value)
    text = value if isinstance(value, str) else str(value)
    return str.__str__(text)  # a subclass of str may have methods of its own, and what `__str__` returns be one


def _all_told(group: BaseExceptionGroup[BaseException]) -> str:
    errors = list(errors_in(group))
    told = [error_in_words(error) for error in errors[:_SHOWN_ERRORS]]
    more = [f"{len(errors) - len(told)} more"] if len(errors) > len(told) else []
    return "; ".join(told + more)
