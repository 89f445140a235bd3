"""What the demo's service runs: the shop's own handler, on a queue of the demo's own, with a stopwatch around it.

The queue has a name that nobody else uses, because the broker may be somebody's; the stopwatch stands here, because an
invoice cannot tell how long its own writing took, and because a shop does not need one.
"""

from __future__ import annotations

import os
import time
from typing import Any

from handlers_example import shop
from mxworker import Context, Handlers

handlers = Handlers()

# One file for all workers: a line is one write with O_APPEND, so lines never mix.
_times = os.open(os.environ["DEMO_TIMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@handlers.consume(os.environ["DEMO_QUEUE"], concurrency=8, timeout=10)
async def order(payload: dict[str, Any], ctx: Context) -> None:
    """Do what the shop does, and note the seconds it took."""
    started_at = time.perf_counter()
    try:
        await shop.order(payload, ctx)
    finally:
        os.write(_times, b"%.6f\n" % (time.perf_counter() - started_at))
