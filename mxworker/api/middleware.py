"""Middleware: functions of the application that run around its handlers.

    @handlers.middleware
    async def audit(payload, ctx, call_next):
        ...                                          # before
        outcome = await call_next(payload, ctx)      # the next middleware, at last the handler
        ...                                          # after
        return outcome

The first middleware registered is the outermost. Its result or exception replaces that of the handler. Only None keeps
the handler's outcome:

- A settlement that `call_next` returned or raised holds, so that a forgotten `return` turns no Reject into an ack. To
  replace it, the middleware returns another settlement, such as `Ack()`.
- An exception that `call_next` raised and the middleware caught counts as handled: the delivery is acked.
- A cancellation that the middleware caught does not count as handled: a delivery whose handler was stopped by its
  timeout has timed out, and one whose handler was stopped at the end of a drain is left unsettled, also when the
  handler turned the cancellation into another exception. A time limit of the middleware's own, such as
  `asyncio.timeout`, is its own affair. A handler that catches the cancellation itself and returns has ended normally.
- When `call_next` was called several times, the call that ended last counts.
- When `call_next` was not called, or has not ended, the delivery has failed, since its handler did not run. To skip the
  handler, a middleware returns `Ack()` or another settlement.

A middleware runs on the event loop. It is an `async def`, or any callable that returns an awaitable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

CallNext = Callable[[Any, Any], Awaitable[Any]]
"""The third argument of a middleware: `await call_next(payload, ctx)` calls what is inside it."""
Middleware = Callable[[Any, Any, CallNext], Any]
