"""The call of a handler: through its middleware, on the event loop or in a thread, with a context or without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.middleware import CallNext
from mxworker.system.cancellation import cancel_requests
from mxworker.worker.handling.middleware_chain import compose
from mxworker.worker.handling.outcomes import awaited, begin_no_await, listed
from mxworker.worker.handling.threads import Threads


def call_of(
    handler: Handler, threads: Threads | None, is_cut: Callable[[], bool]
) -> tuple[Callable[..., Awaitable[Any]], bool]:
    """Return the function that calls the handler through its middleware, and whether it also takes a context.

    For `is_cut` see `compose`.
    """
    function = handler.function if handler.batch is None else _listing(handler)
    if handler.kind is not HandlerKind.ASYNC:
        function = _in_thread(function, threads)
    if not handler.middleware:
        return function, handler.wants_context
    innermost: CallNext = function if handler.wants_context else lambda payload, ctx: function(payload)
    return compose(handler.middleware, innermost, is_cut), True


def _listing(handler: Handler) -> Callable[..., Any]:
    """Return the function of a batch handler. A generator that it returns runs in the same thread as the handler."""
    function = handler.function
    if handler.kind is not HandlerKind.ASYNC:
        return lambda payloads, *context: listed(function(payloads, *context), len(payloads))

    async def call(payloads: Sequence[Any], *context: Any) -> Any:
        return listed(await awaited(function(payloads, *context)), len(payloads))

    return call


def _in_thread(function: Callable[..., Any], threads: Threads | None) -> Callable[..., Awaitable[Any]]:
    """Return the coroutine function that calls `function` in a thread; without `threads`, in the loop's.

    A handler whose time is up while it runs in a thread, which cannot be stopped, begins no await afterwards: nothing
    would end it. CancelledError is raised instead.
    """

    async def call(*arguments: Any) -> Any:
        if threads is None:
            return _called(function, *arguments)
        requests = cancel_requests()
        outcome = await threads.call(function, *arguments)
        if cancel_requests() > requests:
            begin_no_await(outcome)
        return outcome

    return call


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a `def` handler in the loop's thread, as if there were no loop: `asyncio.run` works in it."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return function(*arguments)
    finally:
        asyncio._set_running_loop(loop)
