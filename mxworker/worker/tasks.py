"""Ownership of asyncio tasks: every task that is started here is also awaited or cancelled here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from mxworker.system.log_events import log_event

log = logging.getLogger(__name__)


async def first_of(*duties: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of the duties to end, and cancel the rest. Raises the exception of the first."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks that still run, and wait for them. Their exceptions are logged, not raised."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    for outcome in await asyncio.gather(*ending, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("a background task failed", exc_info=outcome, extra=log_event("background_task_failed"))
