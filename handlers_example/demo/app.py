"""The application of the demo's service: the shop, with a stopwatch around every handler."""

from __future__ import annotations

import os
import time
from typing import Any

from handlers_example import shop
from handlers_example.demo.times import Execution
from mxworker import Ack, Context, Handlers
from mxworker.api.middleware import CallNext

handlers = Handlers()
handlers.include(shop.handlers)

# All processes share one file. Each line is one write with O_APPEND, so lines never mix.
_times = os.open(os.environ["DEMO_TIMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@handlers.middleware
async def timed(payload: Any, ctx: Context, call_next: CallNext) -> Any:
    """Record the start and the end of each execution, and how many messages it acked."""
    began_at, done = time.monotonic(), 0
    try:
        outcome = await call_next(payload, ctx)
        outcomes = outcome if isinstance(outcome, list) else [outcome] * len(ctx.deliveries)
        done = sum(one is None or isinstance(one, Ack) for one in outcomes)
        return outcome
    finally:
        queue = ctx.queue.removeprefix(shop.PREFIX)
        os.write(_times, Execution(queue, ctx.attempt, done, began_at, time.monotonic()).line())
