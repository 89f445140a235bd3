"""The application of the tests of alerts: what a message does stands in its body.

While it runs, it publishes ten messages a second to a queue that nobody consumes, whatever happens to them. A worker
that starts while the file CRASHING exists ends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

from mxworker import Context, Handlers, Publisher, Reject, RetryPolicy
from mxworker.errors import PublishError

WORK, OUT = "work", "out"
PLACES = 8
OBJECTIVE_S = 300
TIMEOUT_S = 10
RETRY_AFTER_S = 3600  # later than any test, so that a failure is a failure and never a dead letter

CRASHING = Path(os.environ.get("CRASHING", "/nowhere"))

handlers = Handlers()
handlers.declare(OUT)


@handlers.lifespan
async def publishing() -> AsyncIterator[SimpleNamespace]:
    state = SimpleNamespace(publisher=None)
    tasks = [asyncio.create_task(publish(state))]
    if CRASHING.exists():  # noqa: ASYNC240
        tasks.append(asyncio.create_task(crash_soon()))
    yield state
    for task in tasks:
        task.cancel()


async def publish(state: SimpleNamespace) -> None:
    attempts: set[asyncio.Task[None]] = set()
    while True:
        await asyncio.sleep(0.1)
        if state.publisher is not None:
            attempt = asyncio.create_task(attempt_at(state.publisher))
            attempts.add(attempt)
            attempt.add_done_callback(attempts.discard)


async def attempt_at(publisher: Publisher) -> None:
    with contextlib.suppress(PublishError):
        await publisher.publish(b"done", routing_key=OUT)


async def crash_soon() -> None:
    await asyncio.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


@handlers.consume(
    WORK,
    concurrency=PLACES,
    timeout=TIMEOUT_S,
    objective=OBJECTIVE_S,
    retry=RetryPolicy(max_retries=1, delays=(RETRY_AFTER_S,)),
)
async def work(body: str, ctx: Context) -> None:
    ctx.state.publisher = ctx.publisher
    what, _, seconds = body.partition(" ")
    match what:
        case "sleep":
            await asyncio.sleep(float(seconds))
        case "block":
            time.sleep(float(seconds))  # noqa: ASYNC251
        case "borrow":
            async with ctx.channel():
                pass
        case "fail":
            raise ValueError("as it was told")
        case "reject":
            raise Reject("as it was told")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stick":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
