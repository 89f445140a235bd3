"""The application whose memory `bench/memory.py` measures: one handler that does nothing."""

import os

from mxworker import Handlers, Queue

handlers = Handlers()
queue = Queue(os.environ["BENCH_QUEUE"], type="classic", dead_letter=False)


@handlers.consume(queue, retry=None)
async def consume(payload: dict) -> None:  # type: ignore[type-arg]
    """Do nothing."""
