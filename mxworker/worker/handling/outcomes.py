"""The result of a handler, a batch handler or a middleware: an awaitable is awaited, and the result is accepted or not.

No result is acked that is not understood: a call that returned a coroutine has not run its handler yet, and the meaning
of a result of 42 is unknown. A result that is refused fails the delivery, like an exception.

Pure: it awaits only awaitables of the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from inspect import isawaitable, iscoroutine
from itertools import islice
from typing import Any

from mxworker.api.settlement import Settlement
from mxworker.system.foreign_errors import errors_in, is_a, type_name

_MOST_AWAITED = 8  # a wrapper around a wrapper returns an awaitable of an awaitable; more of them are a mistake
_WITHOUT_ORDER = (str, bytes, bytearray, memoryview, Set)  # iterables, but not of settlements by position

MAY_RETURN = "return None, Ack(), Requeue(), Retry() or Reject()"


class UnknownOutcome(TypeError):
    """The result is no settlement. The text has the result, and the results that are allowed."""


async def awaited(outcome: object) -> object:
    """Return `outcome`, or the result of awaiting it. Raises the exceptions of the await, and UnknownOutcome."""
    for _ in range(_MOST_AWAITED):
        if not isawaitable(outcome):
            return outcome
        outcome = await outcome
    if isawaitable(outcome):
        if iscoroutine(outcome):
            outcome.close()
        raise UnknownOutcome(f"returned an awaitable of an awaitable, {_MOST_AWAITED} times; {MAY_RETURN}")
    return outcome


async def each_awaited(outcomes: list[Any]) -> list[Any]:
    """Await the awaitables among `outcomes` at the same time. An exception of one of them is its outcome."""
    if not any(map(isawaitable, outcomes)):
        return outcomes
    return await asyncio.gather(*map(_ended, outcomes), return_exceptions=True)


def begin_no_await(outcome: object) -> None:
    """Raise CancelledError if anything in the outcome of a cancelled call is to be awaited. Its coroutines are closed.

    `outcome` is that of a handler, or of a batch handler with a settlement for each payload.
    """
    match outcome:
        case Mapping():
            parts: list[Any] = list(outcome.values())
        case list() | tuple():
            parts = list(outcome)
        case _:
            parts = [outcome]
    to_await = [part for part in parts if isawaitable(part)]
    for part in to_await:
        if iscoroutine(part):
            part.close()
    if to_await:
        raise asyncio.CancelledError


async def _ended(outcome: object) -> object:
    """Return the result of `outcome`, or its exception: a task that raises SystemExit would end the event loop."""
    try:
        return await awaited(outcome)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return error


def alone_in(error: BaseException) -> Settlement | None:
    """Return `error` if it is a settlement, or the settlement of a group that holds nothing else; otherwise None.

    In a group, tasks that were cancelled because another one failed do not count.
    """
    held = [each for each in errors_in(error) if not is_a(each, asyncio.CancelledError)]
    return held[0] if len(held) == 1 and is_a(held[0], Settlement) else None


def listed(outcome: object, count: int) -> object:
    """Return a list of an iterator, such as a generator; any other outcome unchanged.

    At most `count` + 1 elements are taken. Call it where the handler runs, since a generator is code of the handler.
    """
    if isinstance(outcome, Iterator) and not isawaitable(outcome):
        return list(islice(outcome, count + 1))
    return outcome


def by_position(outcome: object, count: int) -> list[Any]:
    """Return the result of a batch handler as a list of `count` outcomes, one for each payload.

    The result may be an iterable of `count` outcomes, or a mapping with the positions 0 to `count` - 1 as its keys. A
    settlement or an exception holds for all payloads. Raises UnknownOutcome for any other result.
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
    """Whether a batch handler's outcome holds for all deliveries: None, a settlement, its class, or an exception."""
    if outcome is None or isinstance(outcome, BaseException):
        return True
    return isinstance(outcome, type) and issubclass(outcome, Settlement)


def unknown(outcome: object, may_return: str = MAY_RETURN) -> UnknownOutcome:
    """Return the error for a result that is not allowed."""
    return UnknownOutcome(f"returned {_shown(outcome)}; {may_return}")


def _shown(outcome: object) -> str:
    """Return `True (bool)`, but only the type of any other result, which may be the message's body."""
    name = type_name(outcome)
    if type(outcome) is bool:
        return f"{outcome!r} ({name})"
    return f"{'an' if name[:1].lower() in ('a', 'e', 'i', 'o', 'u') else 'a'} {name}"
