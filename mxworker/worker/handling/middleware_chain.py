"""The middleware of a handler as one call, with the rules of `api.middleware`.

This module knows nothing about deliveries and settling on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any

from mxworker.api.middleware import CallNext, Middleware
from mxworker.system.cancellation import raise_own_cancellation
from mxworker.system.foreign_errors import is_a, text_of
from mxworker.worker.handling.outcomes import UnknownOutcome, alone_in, awaited


def compose(
    layers: tuple[Middleware, ...], innermost: CallNext, is_cut: Callable[[], bool] = lambda: False
) -> CallNext:
    """Return one call through all layers, of which the first is the outermost. Without layers, returns `innermost`.

    `is_cut` says whether all that runs was cancelled, to be left unsettled.
    """
    call = innermost
    for layer in reversed(layers):
        call = _around(layer, call, is_cut)
    return call


def _around(layer: Middleware, call_next: CallNext, is_cut: Callable[[], bool]) -> CallNext:
    async def call(payload: Any, ctx: Any) -> Any:
        inner = _Inner(call_next)
        outcome = layer(payload, ctx, inner.call)
        if type(outcome) is CoroutineType:  # the usual case, without the checks of `awaited`
            outcome = await outcome
        if outcome is not None:
            outcome = await awaited(outcome)
        return inner.standing(layer, is_cut) if outcome is None else outcome

    return call


class _Inner:
    """The calls of `call_next` in one execution of a middleware, and the end of the last one."""

    __slots__ = ("_call_next", "_calls", "_ended", "_has_outcome", "_raised", "_returned", "_was_cancelled")

    def __init__(self, call_next: CallNext) -> None:
        self._call_next = call_next
        self._calls = 0
        self._ended = 0
        self._has_outcome = False  # whether the last end was a result or a settlement
        self._was_cancelled = False  # whether the last end was a CancelledError
        self._returned: Any = None
        self._raised: BaseException | None = None

    def call(self, payload: Any, ctx: Any) -> Awaitable[Any]:
        """Call the next layer. A plain function, so that a call counts although it is never awaited."""
        self._calls += 1
        return self._through(payload, ctx)

    async def _through(self, payload: Any, ctx: Any) -> Any:
        """Await the result of the call, too, so that the middleware gets the final outcome."""
        self._returned = self._raised = None
        try:
            outcome: Any = self._call_next(payload, ctx)
            if type(outcome) is CoroutineType:
                outcome = await outcome
            if outcome is not None:
                outcome = await awaited(outcome)
        except BaseException as error:
            self._has_outcome = alone_in(error) is not None
            self._was_cancelled = is_a(error, asyncio.CancelledError)
            self._raised = error if self._has_outcome else None
            raise
        finally:
            self._ended += 1
        self._returned = outcome
        self._has_outcome = True
        self._was_cancelled = False
        return outcome

    def standing(self, layer: Middleware, is_cut: Callable[[], bool]) -> Any:
        """Return or raise the outcome that holds when the middleware returned None. Raises UnknownOutcome.

        Raises CancelledError when the call was cancelled before it had an outcome: a cancellation that the middleware
        has caught would make a success of a handler that was stopped in the midst of its work. After a cut that is so
        for any exception, since handlers turn cancellations into others.
        """
        is_open = self._ended < self._calls
        if (is_open or not self._has_outcome) and is_cut():
            raise asyncio.CancelledError
        if is_open or self._was_cancelled:
            raise_own_cancellation()
        if self._raised is not None:
            raise self._raised
        if self._returned is None and is_open:
            raise UnknownOutcome(f"middleware {_name(layer)} did not await call_next, so the handler has not ended")
        if not self._calls:
            raise UnknownOutcome(
                f"middleware {_name(layer)} returned None without calling call_next; return Ack() to skip the handler"
            )
        return self._returned


def _name(layer: Middleware) -> str:
    return text_of(getattr(layer, "__qualname__", type(layer).__qualname__))
