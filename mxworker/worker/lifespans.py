"""The application's lifespans: entered before the first delivery, left after the last handler, once per process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from traceback import FrameSummary
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.api.lifespan import Lifespan
from mxworker.config import format_duration
from mxworker.errors import AppLoadError
from mxworker.system.cancellation import raise_own_cancellation
from mxworker.system.task_stacks import task_frames
from mxworker.worker.app_errors import failure_in_app, place_in_app

log = logging.getLogger(__name__)

_ENTER_GRACE_S = 5.0  # as a handler has that was cancelled
_LEAVE_GRACE_S = 0.5  # beyond the drain's deadline; the master's own bound is a second beyond it
# What contextlib says of a generator that does not yield once.
_NO_YIELD = "generator didn't yield"
_SECOND_YIELD = "generator didn't stop"


class Lifespans:
    """The lifespans of all handlers. Entered and left in one task, as what they hold may need."""

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self._lifespans = list(dict.fromkeys(lifespan for handler in handlers for lifespan in handler.lifespans))
        self._states: dict[Lifespan, Any] = {}
        self._entered = AsyncExitStack()
        self._entering: asyncio.Timeout | None = None
        self._which_enters: Lifespan
        self._time = ""
        self._leaving: Lifespan | None = None
        self._is_given_up = False
        self._waited_at: list[FrameSummary] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self.has_stuck = asyncio.Event()
        """Set when `enter` was to end and does not: what it waits for catches the cancellation and goes on."""

    async def enter(self, timeout_s: float | None = None, time_for: str = "that --boot-timeout gives it") -> None:
        """Enter all in order. Raises AppLoadError, having left those it had entered.

        That is also raised when `timeout_s` seconds are over before all are entered; with None it may take for ever.
        `time_for` goes on where "the time" begins, in the text of that.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._be_late, task)
        self._time = f"after {format_duration(timeout_s or 0)}, the time {time_for}"
        try:
            for lifespan in self._lifespans:
                self._which_enters = lifespan
                try:
                    async with asyncio.timeout_at(loop.time() if self._has_to_end else None) as self._entering:
                        self._states[lifespan] = await self._entered.enter_async_context(lifespan())
                except BaseException as error:  # the application's code: SystemExit, or a cancellation of its own
                    await self.leave(loop.time())
                    raise_own_cancellation()
                    if self._waited_at is not None and isinstance(error, TimeoutError):
                        raise self.not_entered from error
                    raise _why_not_entered(lifespan, error) from error
                finally:
                    self._entering = None
                self._entered.callback(self._begin_to_leave, lifespan)
        finally:
            for pending in (timer, self._grace):
                if pending is not None:
                    pending.cancel()

    @property
    def not_entered(self) -> AppLoadError:
        """The error for one that was not entered in time, with the line where it waited then."""
        lifespan = self._which_enters
        catches = ", and goes on though cancelled (catch Exception, not all)" if self.has_stuck.is_set() else ""
        headline = f"lifespan '{lifespan.name}' of '{lifespan.module}' is not entered {self._time}{catches}:"
        return AppLoadError(place_in_app(headline, self._waited_at or ()))

    @property
    def _has_to_end(self) -> bool:
        return self._is_given_up or self._waited_at is not None

    def _be_late(self, task: asyncio.Task[Any]) -> None:
        """End an `enter` whose time is over, and note where it waits now: its traceback does not tell in Python 3.11.2.

        There, what `asyncio.timeout` raises has lost the cancellation that led to it.
        """
        self._waited_at = task_frames(task)
        self._end_entering()

    def state_of(self, handler: Handler) -> Any:
        """Return what the innermost lifespan around `handler` yielded; None without one. Call after `enter`."""
        return self._states[handler.lifespans[-1]] if handler.lifespans else None

    def give_up_entering(self) -> None:
        """End an `enter` that is under way, by a TimeoutError where the application waits, now or next."""
        self._is_given_up = True
        self._end_entering()

    def _end_entering(self) -> None:
        if self._entering is None:
            return
        loop = asyncio.get_running_loop()
        if not self._entering.expired():  # else it has been told already
            self._entering.reschedule(loop.time())
        if self._grace is None:
            self._grace = loop.call_later(_ENTER_GRACE_S, self.has_stuck.set)

    async def leave(self, deadline: float) -> None:
        """Leave what was entered, the last first, until the loop time `deadline` and a little longer."""
        leave_until = max(deadline, asyncio.get_running_loop().time()) + _LEAVE_GRACE_S
        try:
            async with asyncio.timeout_at(leave_until):
                await self._entered.aclose()
        except TimeoutError:
            log.error("a lifespan did not end in time and is left as it is%s", self._which)
        except BaseException as error:  # as above
            raise_own_cancellation()
            if isinstance(error, RuntimeError) and str(error) == _SECOND_YIELD and self._leaving is not None:
                log.error("a lifespan failed at the end: %s", self._leaving.second_yield)
            else:
                log.exception("a lifespan failed at the end%s", self._which)

    def _begin_to_leave(self, lifespan: Lifespan) -> None:
        self._leaving = lifespan

    @property
    def _which(self) -> str:
        return "" if self._leaving is None else f": '{self._leaving.name}'"


def _why_not_entered(lifespan: Lifespan, error: BaseException) -> AppLoadError:
    if isinstance(error, AppLoadError):
        return error
    if isinstance(error, RuntimeError) and str(error) == _NO_YIELD:
        return lifespan.no_yield
    return AppLoadError(failure_in_app(f"lifespan '{lifespan.name}' failed at the start:", error))
