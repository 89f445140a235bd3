"""The application's lifespans: entered before the first delivery, left after the last handler, once per process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from mxworker.amqp.translate import raise_own_cancellation
from mxworker.compilation import Handler, Lifespan
from mxworker.config import format_duration
from mxworker.errors import AppLoadError
from mxworker.worker.loading import failure_in_app

log = logging.getLogger(__name__)

_LEAVE_GRACE_S = 0.5  # beyond the drain's deadline; the master's own bound is a second beyond it


class Lifespans:
    """The lifespans of all handlers. Entered and left in one task, as what they hold may need."""

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self._lifespans = list(dict.fromkeys(lifespan for handler in handlers for lifespan in handler.lifespans))
        self._states: dict[Lifespan, Any] = {}
        self._entered = AsyncExitStack()
        self._entering: asyncio.Timeout | None = None
        self._is_given_up = False

    async def enter(self, timeout_s: float | None = None) -> None:
        """Enter all in order. Raises AppLoadError, having left those it had entered.

        That is also raised when `timeout_s` seconds are over before all are entered; with None it may take for ever.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        for lifespan in self._lifespans:
            try:
                async with asyncio.timeout_at(loop.time() if self._is_given_up else deadline) as self._entering:
                    self._states[lifespan] = await self._entered.enter_async_context(lifespan())
            except BaseException as error:  # the application's code: SystemExit, or a cancellation of its own
                await self.leave(loop.time())
                raise_own_cancellation()
                is_late = isinstance(error, TimeoutError) and deadline is not None and loop.time() >= deadline
                late_s = timeout_s if is_late else None
                raise AppLoadError(_why_not_entered(lifespan, error, late_s)) from error
            finally:
                self._entering = None

    def state_of(self, handler: Handler) -> Any:
        """Return what the innermost lifespan around `handler` yielded; None without one. Call after `enter`."""
        return self._states[handler.lifespans[-1]] if handler.lifespans else None

    def give_up_entering(self) -> None:
        """End an `enter` that is under way, by a TimeoutError where the application waits, now or next."""
        self._is_given_up = True
        if self._entering is not None:
            self._entering.reschedule(asyncio.get_running_loop().time())

    async def leave(self, deadline: float) -> None:
        """Leave what was entered, the last first, until the loop time `deadline` and a little longer."""
        leave_until = max(deadline, asyncio.get_running_loop().time()) + _LEAVE_GRACE_S
        try:
            async with asyncio.timeout_at(leave_until):
                await self._entered.aclose()
        except TimeoutError:
            log.error("a lifespan did not end in time and is left as it is")
        except BaseException:  # as above
            raise_own_cancellation()
            log.exception("a lifespan failed at the end")


def _why_not_entered(lifespan: Lifespan, error: BaseException, late_s: float | None) -> str:
    """Return what is told of a lifespan that was not entered; `late_s`: the time it had, if it took longer."""
    name = getattr(lifespan, "__name__", lifespan)
    if late_s is None:
        return failure_in_app(f"lifespan '{name}' failed at the start:", error)
    if error.__cause__ is not None:  # the cancellation, which came where the application waits
        error = error.with_traceback(error.__cause__.__traceback__)
    return failure_in_app(
        f"lifespan '{name}' of '{lifespan.__module__}' is not entered after {format_duration(late_s)}, "
        "the time that --boot-timeout gives it:",
        error,
    )
