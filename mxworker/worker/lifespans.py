"""The application's lifespans: a process enters them before its first delivery, and leaves them after its last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from traceback import FrameSummary
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.api.lifespan import Lifespan
from mxworker.config.units import format_duration
from mxworker.errors import AppLoadError
from mxworker.system.cancellation import raise_own_cancellation
from mxworker.system.log_events import log_event
from mxworker.system.task_stacks import task_frames
from mxworker.worker.app_errors import failure_in_app, place_in_app

log = logging.getLogger(__name__)

_ENTER_GRACE_S = 5.0  # the same as for a handler that was cancelled
_LEAVE_GRACE_S = 0.5  # after the drain's deadline; the master's own bound is one second after it
# The beginnings of contextlib's errors for a generator that does not yield exactly once.
_NO_YIELD = "generator didn't yield"
_SECOND_YIELD = "generator didn't stop"


class Lifespans:
    """The lifespans of all handlers. Enter and leave them in one task, since cancel scopes and task groups need it."""

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
        """Set when `enter` was cancelled and goes on, since the lifespan catches the cancellation."""
        self.end_error: BaseException | None = None
        """Why `leave` could not leave all lifespans. It is logged, too."""

    async def enter(self, timeout_s: float | None = None, time_for: str = "that --boot-timeout gives it") -> None:
        """Enter all lifespans in order. On a failure, leaves those that were entered and raises AppLoadError.

        It is a failure, too, when `timeout_s` seconds pass before all are entered; None sets no limit. `time_for`
        continues the words "the time" in the text of that error.
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
                    if isinstance(error, asyncio.CancelledError):
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
        """The error for a lifespan that was not entered in time, with the line at which it waited."""
        lifespan = self._which_enters
        catches = ", and goes on though cancelled (catch Exception, not all)" if self.has_stuck.is_set() else ""
        headline = f"lifespan '{lifespan.name}' of '{lifespan.module}' is not entered {self._time}{catches}:"
        return AppLoadError(place_in_app(headline, self._waited_at or ()))

    @property
    def _has_to_end(self) -> bool:
        return self._is_given_up or self._waited_at is not None

    def _be_late(self, task: asyncio.Task[Any]) -> None:
        """End an `enter` whose time is over, and note where it waits now.

        The traceback does not show that place in Python 3.11.2: the TimeoutError of `asyncio.timeout` has lost the
        cancellation that led to it.
        """
        self._waited_at = task_frames(task)
        self._end_entering()

    def state_of(self, handler: Handler) -> Any:
        """Return the value of the innermost lifespan around `handler`; None without one. Call after `enter`."""
        return self._states[handler.lifespans[-1]] if handler.lifespans else None

    def give_up_entering(self) -> None:
        """End an `enter` that is under way: its next wait, or the present one, raises TimeoutError."""
        self._is_given_up = True
        self._end_entering()

    def _end_entering(self) -> None:
        if self._entering is None:
            return
        loop = asyncio.get_running_loop()
        if not self._entering.expired():  # otherwise it is being cancelled already
            self._entering.reschedule(loop.time())
        if self._grace is None:
            self._grace = loop.call_later(_ENTER_GRACE_S, self.has_stuck.set)

    async def leave(self, deadline: float) -> None:
        """Leave the lifespans that were entered, the last first, by the loop time `deadline` and half a second."""
        leave_until = max(deadline, asyncio.get_running_loop().time()) + _LEAVE_GRACE_S
        try:
            async with asyncio.timeout_at(leave_until):
                await self._entered.aclose()
        except TimeoutError as error:
            self.end_error = error
            log.error(
                "a lifespan did not end in time and is left as it is%s",
                self._which,
                extra=log_event("lifespan_timeout"),
            )
        except BaseException as error:  # the application's code: SystemExit, or a cancellation of its own
            if isinstance(error, asyncio.CancelledError):
                raise_own_cancellation()
            self.end_error = error
            if isinstance(error, RuntimeError) and str(error) == _SECOND_YIELD and self._leaving is not None:
                facts = log_event("lifespan_failed")
                log.error("a lifespan failed at the end: %s", self._leaving.second_yield, extra=facts)
            else:
                log.exception("a lifespan failed at the end%s", self._which, extra=log_event("lifespan_failed"))

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
