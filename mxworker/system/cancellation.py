"""asyncio cancellations that a library may have swallowed."""

from __future__ import annotations

import asyncio


def raise_own_cancellation() -> None:
    """Raise CancelledError when the running task was cancelled, even if a library has swallowed that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
