"""The application's lifespans: a process enters them before its first delivery, and leaves them after its last.

They live in a task of their own, since a task group or a timeout around the `yield` of a lifespan cancels the task that
entered it. Such a cancellation is a request to leave: the lifespans stay open until the last handler has finished, and
then get the cancellation, so that the group or the timeout raises its error. Context variables that lifespans set are
those of the task that called `enter`, too, and so of the handlers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from contextvars import copy_context
from functools import partial
from traceback import FrameSummary
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.api.lifespan import Lifespan
from mxworker.config.units import format_duration
from mxworker.errors import AppLoadError
from mxworker.system.cancellation import raise_own_cancellation
from mxworker.system.foreign_errors import error_in_words
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
    """The lifespans of all handlers. One task enters and leaves them, since cancel scopes and task groups need it."""

    def __init__(self, handlers: Sequence[Handler], on_cancelled: Callable[[], None] = lambda: None) -> None:
        """`on_cancelled` is called when a lifespan wants to end before `leave`, which is to be called soon then."""
        self._lifespans = list(dict.fromkeys(lifespan for handler in handlers for lifespan in handler.lifespans))
        self._states: dict[Lifespan, Any] = {}
        self._on_cancelled = on_cancelled
        self._host: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._leave_by: asyncio.Future[float] | None = None
        self._cancellation: asyncio.CancelledError | None = None
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
        self._time = f"after {format_duration(timeout_s or 0)}, the time {time_for}"
        owner = asyncio.current_task()
        assert owner is not None
        entered = loop.create_future()
        context = copy_context()
        self._host = loop.create_task(self._live(timeout_s, entered, owner), name="lifespans", context=context)
        await _first_of(self._host, entered)
        if not entered.done():
            try:
                self._host.result()
            finally:
                raise_own_cancellation()
        for variable, value in context.items():
            variable.set(value)

    async def _live(self, timeout_s: float | None, entered: asyncio.Future[None], owner: asyncio.Task[Any]) -> None:
        """Enter all lifespans, set the result of `entered`, wait for the call of `leave`, and leave the lifespans.

        `owner` is the task that calls `enter` and `leave`.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._be_late, task)
        try:
            await self._enter_all()
        finally:
            for pending in (timer, self._grace):
                if pending is not None:
                    pending.cancel()
        self._leave_by = loop.create_future()
        entered.set_result(None)
        await self._leave_all(await self._until_asked(self._leave_by, owner))

    async def _enter_all(self) -> None:
        loop = asyncio.get_running_loop()
        for lifespan in self._lifespans:
            self._which_enters = lifespan
            try:
                async with asyncio.timeout_at(loop.time() if self._has_to_end else None) as self._entering:
                    self._states[lifespan] = await self._stack.enter_async_context(lifespan())
            except BaseException as error:  # the application's code: SystemExit, or a cancellation of its own
                await self._leave_all(loop.time())
                if self._waited_at is not None and isinstance(error, TimeoutError):
                    raise self.not_entered from error
                raise _why_not_entered(lifespan, error) from error
            finally:
                self._entering = None
            self._stack.push(partial(self._begin_to_leave, lifespan))

    async def _until_asked(self, leave_by: asyncio.Future[float], owner: asyncio.Task[Any]) -> float:
        """Wait for the call of `leave`, and return its deadline. Note a cancellation, by a task group for example.

        When `owner` has ended, nobody will call `leave`: a cancellation is the end then, as when the loop is closed.
        """
        while not leave_by.done():
            try:
                await asyncio.wait([leave_by])
            except asyncio.CancelledError as error:
                if owner.done():
                    return asyncio.get_running_loop().time()
                if self._cancellation is None:  # cancel scopes of anyio repeat theirs
                    self._cancellation = error
                    self._on_cancelled()
        return leave_by.result()

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

    @property
    def are_cancelled(self) -> bool:
        """Whether a lifespan wants to end; see `on_cancelled`."""
        return self._cancellation is not None

    async def leave(self, deadline: float) -> None:
        """Leave the lifespans that were entered, the last first, by the loop time `deadline` and half a second."""
        if self._host is None or self._leave_by is None:
            return
        if not self._leave_by.done():
            self._leave_by.set_result(deadline)
        await _first_of(self._host)
        raise_own_cancellation()
        self._host.result()

    async def _leave_all(self, deadline: float) -> None:
        leave_until = max(deadline, asyncio.get_running_loop().time()) + _LEAVE_GRACE_S
        cause = self._cancellation
        try:
            async with asyncio.timeout_at(leave_until) as leaving:
                if cause is None:
                    await self._stack.aclose()
                else:
                    await self._stack.__aexit__(type(cause), cause, cause.__traceback__)
        except BaseException as error:  # the application's code: SystemExit, or a cancellation of its own
            self.end_error = error
            self._tell_end(error, is_late=leaving.expired() and isinstance(error, TimeoutError))
        else:
            if cause is not None:
                self.end_error = RuntimeError(f"lifespan{self._which} was cancelled")
                self._tell_broken("it was cancelled", None)

    def _tell_end(self, error: BaseException, is_late: bool) -> None:
        """Log how the lifespan that is left now has failed."""
        if is_late:
            log.error(
                "a lifespan did not end in time and is left as it is%s",
                self._which,
                extra=log_event("lifespan_timeout"),
            )
        elif self._cancellation is not None:
            self._tell_broken(error_in_words(error), error)
        elif isinstance(error, RuntimeError) and str(error) == _SECOND_YIELD and self._leaving is not None:
            facts = log_event("lifespan_failed")
            log.error("a lifespan failed at the end: %s", self._leaving.second_yield, extra=facts)
        else:
            log.error("a lifespan failed at the end%s", self._which, exc_info=error, extra=log_event("lifespan_failed"))

    def _tell_broken(self, why: str, error: BaseException | None) -> None:
        log.error(
            "a lifespan failed while the process served%s: %s",
            self._which,
            why,
            exc_info=error,
            extra=log_event("lifespan_broken", error=why),
        )

    def _begin_to_leave(self, lifespan: Lifespan, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is self._cancellation:  # otherwise the one that was left before has failed
            self._leaving = lifespan

    @property
    def _which(self) -> str:
        return "" if self._leaving is None else f": '{self._leaving.name}'"


async def _first_of(host: asyncio.Task[None], *others: asyncio.Future[Any]) -> None:
    """Wait for the end of `host` or for one of the others. A cancellation of this wait cancels `host` instead."""
    while not any(future.done() for future in (host, *others)):
        try:
            await asyncio.wait((host, *others), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            host.cancel()


def _why_not_entered(lifespan: Lifespan, error: BaseException) -> AppLoadError:
    if isinstance(error, AppLoadError):
        return error
    if isinstance(error, RuntimeError) and str(error) == _NO_YIELD:
        return lifespan.no_yield
    return AppLoadError(failure_in_app(f"lifespan '{lifespan.name}' failed at the start:", error))
