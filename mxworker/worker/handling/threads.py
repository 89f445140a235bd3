"""The threads in which `def` handlers run. Their number is bounded.

A thread cannot be ended from outside. So a call that is cancelled goes on until its thread has ended, and its delivery
stays unsettled until then. Otherwise the retry of the delivery would run beside the thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from mxworker.system.forks import end_fork
from mxworker.system.printable import foreign


class Threads:
    """At most `size` threads, which are started when they are needed. Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        """Start no thread yet."""
        self._pool = ThreadPoolExecutor(size, "mxworker-handler")
        self._idents: dict[asyncio.Task[Any], int] = {}

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` in a thread, with the caller's context variables, and return its result.

        When the caller is cancelled, even several times, this call goes on until the thread has ended, and returns or
        raises the outcome of the function. CancelledError is raised, at once, only if the function had not begun.
        """
        task = asyncio.current_task()
        assert task is not None
        context = copy_context()
        pid = os.getpid()

        def run() -> Any:
            self._idents[task] = threading.get_ident()
            try:
                return context.run(function, *arguments)
            except (StopIteration, GeneratorExit) as error:  # no future holds the one, the other ends its task
                raise RuntimeError(f"the handler raised {type(error).__name__}") from error
            finally:
                if os.getpid() != pid:
                    end_fork(sys.exception())

        submitted = self._pool.submit(run)
        running = asyncio.wrap_future(submitted)
        try:
            while True:
                try:
                    return await asyncio.shield(running)
                except asyncio.CancelledError:
                    if submitted.cancel():
                        raise
                    if running.done():
                        return running.result()
        finally:
            self._idents.pop(task, None)

    def stack_of(self, task: asyncio.Task[Any]) -> list[str] | None:
        """Return the stack of the thread that works for `task`, the innermost frame last; None without a thread."""
        ident = self._idents.get(task)
        frame = sys._current_frames().get(ident) if ident is not None else None
        return (
            None
            if frame is None
            else [foreign(f"{at.filename}:{at.lineno} {at.name}") for at in traceback.extract_stack(frame)]
        )

    def close(self) -> None:
        """Start no further call. Threads that still run end with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
