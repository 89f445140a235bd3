"""asyncio cancellations that a library may have swallowed.

`Task.cancelling` alone does not tell: in Python 3.11 and 3.12 a task group that has failed leaves one request to cancel
behind in the task that ran it. So what counts are the requests that came since an earlier moment, between which and now
no other code than the library's has run in the task.
"""

from __future__ import annotations

import asyncio


def cancel_requests() -> int:
    """Return how often the running task was asked to end, without the requests that were withdrawn."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def raise_own_cancellation(since: int = 0) -> None:
    """Raise CancelledError when the running task was cancelled, even if a library has swallowed that.

    `since` is what `cancel_requests` returned before the call of the library: only requests after it count.
    """
    if cancel_requests() > since:
        raise asyncio.CancelledError
