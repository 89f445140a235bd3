"""What applications put around their handlers.

    @handlers.middleware
    async def audit(payload, ctx, call_next):
        ...                                          # before
        outcome = await call_next(payload, ctx)      # the next middleware, at last the handler
        ...                                          # after
        return outcome

The first one registered is the outermost. What it returns or raises takes the place of what the handler did, but for
None, which leaves that as it is:

- A settlement that `call_next` returned or raised stands, so that a forgotten `return` turns no Reject into an ack. To
  replace it a middleware returns another one, `Ack()` included.
- An exception that `call_next` raised and the middleware caught is dealt with: its delivery is acked.
- Of several calls of `call_next` the one that ended last counts.
- Without any call, or while one has not ended, there is nothing to stand: that is a failure of the delivery, since its
  handler did not run. To leave the handler out a middleware returns `Ack()`, or another settlement.

A middleware runs on the event loop. It is an `async def`, or any callable that returns an awaitable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

CallNext = Callable[[Any, Any], Awaitable[Any]]
Middleware = Callable[[Any, Any, CallNext], Any]
