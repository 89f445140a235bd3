"""The middleware of a handler as one call: what `api.middleware` promises is kept here.

Must not know: deliveries, settlements on the wire.
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import CoroutineType
from typing import Any

from mxworker.api.middleware import CallNext, Middleware
from mxworker.system.foreign_errors import text_of
from mxworker.worker.handling.outcomes import UnknownOutcome, alone_in, awaited


def compose(layers: tuple[Middleware, ...], innermost: CallNext) -> CallNext:
    """Return one call through all layers, the first the outermost; without layers, `innermost` itself."""
    call = innermost
    for layer in reversed(layers):
        call = _around(layer, call)
    return call


def _around(layer: Middleware, call_next: CallNext) -> CallNext:
    async def call(payload: Any, ctx: Any) -> Any:
        inner = _Inner(call_next)
        outcome = layer(payload, ctx, inner.call)
        if type(outcome) is CoroutineType:  # as nearly always: spares the general case
            outcome = await outcome
        if outcome is not None:
            outcome = await awaited(outcome)
        return inner.standing(layer) if outcome is None else outcome

    return call


class _Inner:
    """What one execution of a middleware is around: its calls of `call_next`, and how the last one ended."""

    __slots__ = ("_call_next", "_calls", "_ended", "_raised", "_returned")

    def __init__(self, call_next: CallNext) -> None:
        self._call_next = call_next
        self._calls = 0
        self._ended = 0
        self._returned: Any = None
        self._raised: BaseException | None = None

    def call(self, payload: Any, ctx: Any) -> Awaitable[Any]:
        """Call what is inside. A plain function, so that a call counts that nobody awaits."""
        self._calls += 1
        return self._through(payload, ctx)

    async def _through(self, payload: Any, ctx: Any) -> Any:
        """Await what the call returns, too: the middleware is shown what came of it in the end."""
        self._returned = self._raised = None
        try:
            outcome: Any = self._call_next(payload, ctx)
            if type(outcome) is CoroutineType:
                outcome = await outcome
            if outcome is not None:
                outcome = await awaited(outcome)
        except BaseException as error:
            self._raised = error if alone_in(error) is not None else None
            raise
        finally:
            self._ended += 1
        self._returned = outcome
        return outcome

    def standing(self, layer: Middleware) -> Any:
        """Return the outcome that stands when the middleware returned None, or raise it. Raises UnknownOutcome."""
        if self._raised is not None:
            raise self._raised
        if self._returned is None and self._ended < self._calls:
            raise UnknownOutcome(f"middleware {_name(layer)} did not await call_next, so the handler has not ended")
        if not self._calls:
            raise UnknownOutcome(
                f"middleware {_name(layer)} returned None without calling call_next; "
                "return Ack() to leave the handler out"
            )
        return self._returned


def _name(layer: Middleware) -> str:
    return text_of(getattr(layer, "__qualname__", type(layer).__qualname__))
