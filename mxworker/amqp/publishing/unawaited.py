"""The publishes of a handler that it did not await: they are accounted for before its delivery is acked.

- Receipts of `publish_nowait` that were not read are awaited.
- A publish that runs in a task of its own is awaited. If it has failed, its error fails the delivery unless some code
  has read the task's exception.
- A publish that the handler cancelled is its own business, whether it had started or not.
- A publish that was called and never awaited was not sent. That is a mistake in the handler, and fails its delivery.

This module knows nothing about publishers and the way to an outcome.

Invariants:
- A publish is forgotten as soon as it is accounted for. Publishes after the handler's return are not kept.
- `begin`, `add` and `end` may be called from threads that work for a handler. Each changes one entry of a dict.
- When the handler has returned, its deliveries are not kept, whatever its tasks do that go on.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from itertools import islice
from typing import Any

from mxworker.api.delivery import Delivery
from mxworker.api.receipts import Receipt
from mxworker.errors import PublishError, PublishUnconfirmed
from mxworker.system.printable import foreign

_PRUNE_AT = 1024
_CODE_UNIT_BYTES = 2  # of an instruction, as `co_positions` counts them

unawaited: ContextVar[Unawaited | None] = ContextVar("unawaited", default=None)
"""The record in which a publisher notes the publishes of the running handler; None outside a handler."""


def _no_facts(handled: object) -> dict[str, object]:
    return {}


class Unawaited:
    """The unaccounted publishes of one handler, and of the tasks and threads that it made, until it returns.

    Holds at most 1,024 entries, or twice as many as are unaccounted for.
    """

    __slots__ = ("_facts_of", "_handled", "_kept", "_prune_at")

    def __init__(
        self, facts_of: Callable[[Any], dict[str, object]] = _no_facts, handled: Delivery | list[Delivery] | None = None
    ) -> None:
        """Begin with none. `handled` is the delivery or the batch that the handler runs; for `facts_of` see `facts`."""
        self._kept: dict[Receipt | Begun, None] | None = {}
        self._prune_at = _PRUNE_AT
        self._facts_of = facts_of
        self._handled = handled

    @property
    def facts(self) -> dict[str, object]:
        """The facts of the delivery or the batch, for log lines; none when the handler has returned."""
        handled = self._handled  # another thread may end the handler meanwhile
        return {} if handled is None else self._facts_of(handled)

    @property
    def is_over(self) -> bool:
        """Whether the handler has returned."""
        return self._kept is None

    def add(self, one: Receipt | Begun) -> None:
        """Keep a publish, unless the handler has returned: a task that it left running may publish for hours."""
        kept = self._kept
        if kept is None:
            return
        if len(kept) >= self._prune_at:
            for other in list(kept):
                if not other.is_unaccounted:
                    kept.pop(other, None)
            self._prune_at = max(_PRUNE_AT, 2 * len(kept))
        kept[one] = None

    def discard(self, one: Begun) -> None:
        """Forget a publish that is accounted for."""
        if self._kept is not None:
            self._kept.pop(one, None)

    def take(self) -> list[Receipt | Begun]:
        """Return the publishes, and keep none from now on. Call once, when the handler has returned."""
        assert self._kept is not None
        kept, self._kept = self._kept, None
        self._handled = None
        return list(kept) if kept else []


class Begun:
    """A publish in a handler, from its call to its outcome. `begin` makes it, and the publish's coroutine ends it."""

    __slots__ = ("_code", "_coroutine", "_error", "_instruction", "_is_over", "_noted", "_task", "_waiter", "method")

    def __init__(self, noted: Unawaited, method: str, depth: int) -> None:
        caller = sys._getframe(depth)
        self._noted = noted
        self.method = method
        self._code = caller.f_code
        self._instruction = caller.f_lasti
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._is_over = False
        self._error: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def by(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Set the coroutine of the publish, which starts when it is awaited. Without one the publish has started."""
        self._coroutine = coroutine

    def end(self, error: BaseException | None = None) -> None:
        """Note the end: there is an outcome, or `error` is raised. Call it in the coroutine, right before its end."""
        self._is_over = True
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if isinstance(error, PublishError):
            task = asyncio.current_task()
            if task is not None and task.get_coro() is self._coroutine:  # otherwise a caller gets the error
                self._task = task
                return
        self._noted.discard(self)

    def end_all(self, outcomes: Iterable[object]) -> None:
        """Note the end of a `publish_many`: its caller gets the errors, unless the handler has already returned."""
        errors = (outcome for outcome in outcomes if isinstance(outcome, PublishError))
        self.end(next(errors, None) if self._noted.is_over else None)

    @property
    def is_forgotten(self) -> bool:
        """Whether its coroutine has not started. A task that was made for it starts it in the next loop turn."""
        return self._coroutine is not None and inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CREATED

    @property
    def is_under_way(self) -> bool:
        """Whether it has no outcome yet, and will have one."""
        return not self._is_over and not self._was_closed_unstarted

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled, maybe before its first step."""
        return isinstance(self._error, asyncio.CancelledError) or self._was_closed_unstarted

    @property
    def is_unaccounted(self) -> bool:
        """Whether it has no outcome yet, or has an error that no code has read."""
        return self.is_under_way or self._has_unseen_error

    @property
    def _was_closed_unstarted(self) -> bool:
        # A coroutine that has started notes its end. One whose task is cancelled before its first step never starts.
        if self._is_over or self._coroutine is None:
            return False
        return inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CLOSED

    @property
    def _has_unseen_error(self) -> bool:
        task = self._task
        # asyncio itself reads this flag before it logs "Task exception was never retrieved".
        return task is not None and (not task.done() or bool(getattr(task, "_log_traceback", False)))

    def close(self) -> None:
        """Close the coroutine, which never started, so that Python does not warn of it."""
        if self._coroutine is not None:
            self._coroutine.close()

    async def outcome(self) -> None:
        """Wait for the outcome. Raises the error of a failed publish."""
        if not self._is_over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the error, if the publish failed."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.exception()  # marks the exception as read
        if isinstance(self._error, PublishError):
            raise self._error
        if self._error is not None:
            raise PublishUnconfirmed(f"{self} was given up before its confirm came ({self._error!r})")

    def __str__(self) -> str:
        place = next(islice(self._code.co_positions(), self._instruction // _CODE_UNIT_BYTES, None), None)
        line = self._code.co_firstlineno if place is None or place[0] is None else place[0]
        return f"ctx.publisher.{self.method}(...) at {foreign(self._code.co_filename)}:{line}"


def begin(method: str) -> Begun | None:
    """Note that the caller's caller has called a method of the publisher. Returns None when no handler has to wait.

    You must call `by` with the coroutine of the publish.
    """
    noted = unawaited.get()
    if noted is None or noted.is_over:
        return None
    begun = Begun(noted, method, 3)
    noted.add(begun)
    return begun


async def confirm_rest(published: Iterable[Receipt | Begun]) -> None:
    """Wait for the publishes that are unaccounted for. Raises the PublishError of the first that was not confirmed.

    Raises RuntimeError when a publish was never awaited, and so was not sent.
    """
    receipts = [one for one in published if isinstance(one, Receipt)]
    begun = [one for one in published if isinstance(one, Begun)]
    if begun:
        await _confirm_begun(begun)
    for receipt in receipts:
        if receipt.is_unaccounted:
            await receipt


async def _confirm_begun(begun: list[Begun]) -> None:
    under_way = [one for one in begun if one.is_under_way]
    unseen = [one for one in begun if not one.is_under_way and one.is_unaccounted]
    if under_way:
        await asyncio.sleep(0)  # starts the coroutines for which a task was made, and ends what the handler cancelled
    expected = [one for one in under_way if not one.is_cancelled]
    forgotten = [one for one in expected if one.is_forgotten]
    for one in forgotten:
        one.close()
    if forgotten:
        first = forgotten[0]
        more = f" (and {len(forgotten) - 1} more)" if len(forgotten) > 1 else ""
        raise RuntimeError(
            f"{first}{more} was never awaited, so nothing was sent. "
            f"Write 'await ctx.publisher.{first.method}(...)'; in a 'def' handler 'ctx.publisher.publish_sync(...)'."
        )
    for one in unseen:
        one.raise_error()
    for one in expected:
        await one.outcome()
