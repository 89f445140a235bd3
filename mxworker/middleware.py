"""What applications put around their handlers.

    @handlers.middleware
    async def audit(payload, ctx, call_next):
        ...                                          # before
        outcome = await call_next(payload, ctx)      # the next middleware, at last the handler
        ...                                          # after
        return outcome

The first one registered is the outermost. What it returns or raises takes the place of what the handler did.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

CallNext = Callable[[Any, Any], Awaitable[Any]]
Middleware = Callable[[Any, Any, CallNext], Awaitable[Any]]


def compose(layers: tuple[Middleware, ...], innermost: CallNext) -> CallNext:
    """Return one call through all layers, the first the outermost; without layers, `innermost` itself."""
    call = innermost
    for layer in reversed(layers):
        call = _around(layer, call)
    return call


def _around(layer: Middleware, call_next: CallNext) -> CallNext:
    return lambda payload, ctx: layer(payload, ctx, call_next)
