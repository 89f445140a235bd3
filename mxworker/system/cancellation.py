"""Cancellations of asyncio that code between us and the loop may have swallowed."""

from __future__ import annotations

import asyncio


def raise_own_cancellation() -> None:
    """Raise CancelledError when the running task was asked to stop, whatever the library made of that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
