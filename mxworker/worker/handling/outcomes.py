"""What a handler, a batch handler or a middleware returned: awaited if it can be, and understood or refused.

Nothing is acked that was not understood: a call that returns a coroutine has not run its handler yet, and one that
returns 42 may have meant anything. What is refused is a failure of the delivery, as an exception is.

Pure: it awaits nothing but what the application returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from inspect import isawaitable, iscoroutine
from itertools import islice
from typing import Any

from mxworker.api.settlement import Settlement
from mxworker.system.cancellation import raise_own_cancellation
from mxworker.system.foreign_errors import errors_in, is_a, type_name

_MOST_AWAITED = 8  # a wrapper around a wrapper returns an awaitable of an awaitable; no end of them is a mistake
_SHOWN_CHARACTERS = 20  # of text: what is longer may be the message's body, which no log shows
_WITHOUT_ORDER = (str, bytes, bytearray, memoryview, Set)  # iterables, but not of settlements by position

MAY_RETURN = "return None, Ack(), Requeue(), Retry() or Reject()"


class UnknownOutcome(TypeError):
    """What was returned is no settlement; the text says what it was, and what may be returned."""


async def awaited(outcome: object) -> object:
    """Return `outcome`, or what it comes to when it is awaited. Raises what that raises, and UnknownOutcome.

    Whoever was cancelled before, in a thread that cannot be stopped, begins nothing: it raises the CancelledError now.
    """
    for _ in range(_MOST_AWAITED):
        if not isawaitable(outcome):
            return outcome
        _leave_if_cancelled(outcome)
        outcome = await outcome
    if isawaitable(outcome):
        if iscoroutine(outcome):
            outcome.close()
        raise UnknownOutcome(f"returned an awaitable that comes to another one, {_MOST_AWAITED} times; {MAY_RETURN}")
    return outcome


async def each_awaited(outcomes: list[Any]) -> list[Any]:
    """Await those of `outcomes` that can be, at the same time; what one of them raises is its outcome."""
    if not any(map(isawaitable, outcomes)):
        return outcomes
    _leave_if_cancelled(*outcomes)
    return await asyncio.gather(*map(_ended, outcomes), return_exceptions=True)


def _leave_if_cancelled(*outcomes: object) -> None:
    """Raise the CancelledError that the running task has coming, and let go of the coroutines that it would await."""
    try:
        raise_own_cancellation()
    except asyncio.CancelledError:
        for outcome in outcomes:
            if iscoroutine(outcome):
                outcome.close()
        raise


async def _ended(outcome: object) -> object:
    """Return what `outcome` comes to, or the exception: a task that raises SystemExit would end the event loop."""
    try:
        return await awaited(outcome)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return error


def alone_in(error: BaseException) -> Settlement | None:
    """Return the one settlement that `error` is, or is all that it holds as a group; else None.

    In a group, tasks that were cancelled because another one failed do not count.
    """
    held = [each for each in errors_in(error) if not is_a(each, asyncio.CancelledError)]
    return held[0] if len(held) == 1 and is_a(held[0], Settlement) else None


def listed(outcome: object, count: int) -> object:
    """Return as a list what can be iterated only once, such as a generator; anything else as it is.

    No more than `count` elements and one are taken. Call it where the handler runs: a generator is the handler's code.
    """
    if isinstance(outcome, Iterator) and not isawaitable(outcome):
        return list(islice(outcome, count + 1))
    return outcome


def by_position(outcome: object, count: int) -> list[Any]:
    """Return what a batch handler returned as a list of `count` outcomes, one for each payload.

    That is an iterable of as many, or a mapping with the positions 0 to `count` - 1 as its keys. A settlement, and an
    exception, is for all. Raises UnknownOutcome for anything else.
    """
    if is_for_all(outcome):
        return [outcome] * count
    if isinstance(outcome, Mapping):
        if len(outcome) != count or any(position not in outcome for position in range(count)):
            raise UnknownOutcome(
                f"returned a {type_name(outcome)} of {len(outcome)} for {count} payloads; "
                f"its keys must be all positions from 0 to {count - 1}"
            )
        return [outcome[position] for position in range(count)]
    if isinstance(outcome, _WITHOUT_ORDER) or not isinstance(outcome, Iterable):
        raise unknown(outcome, f"{MAY_RETURN}, or one of them for each payload, in a list")
    outcomes = list(islice(outcome, count + 1))
    if len(outcomes) != count:
        how_many: object = len(outcomes)
        if len(outcomes) > count:
            how_many = len(outcome) if isinstance(outcome, Sized) else f"more than {count}"
        raise UnknownOutcome(f"returned {how_many} settlements for {count} payloads; return one for each, or None")
    return outcomes


def is_for_all(outcome: object) -> bool:
    """Whether a batch handler's outcome is that of each delivery: None, a settlement, its class, or an exception."""
    if outcome is None or isinstance(outcome, BaseException):
        return True
    return isinstance(outcome, type) and issubclass(outcome, Settlement)


def unknown(outcome: object, may_return: str = MAY_RETURN) -> UnknownOutcome:
    """Return the error that says what was returned, and what may be."""
    return UnknownOutcome(f"returned {_shown(outcome)}; {may_return}")


def _shown(outcome: object) -> str:
    """Return `42 (int)`, and of what is no short scalar the type alone."""
    name = type_name(outcome)
    if type(outcome) in (bool, int, float) or (type(outcome) is str and len(outcome) <= _SHOWN_CHARACTERS):
        try:
            return f"{outcome!r} ({name})"
        except ValueError:  # an integer of thousands of digits
            pass
    return f"{'an' if name[:1].lower() in ('a', 'e', 'i', 'o', 'u') else 'a'} {name}"
