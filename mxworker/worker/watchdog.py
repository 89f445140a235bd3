"""A thread that logs what blocks the event loop while it is blocked: the code, the line, and for how long.

Four times a second the thread asks the loop to answer. When the loop does not, the stack of its thread shows what
blocks it. Code that keeps the interpreter's lock also keeps this thread from looking, and is logged when it gives the
lock back. The watchdog only logs, and calls a function for what must begin even while the loop is blocked. The master
ends a worker that is blocked for too long, see `layout.Word.DEADLINE_NS`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from mxworker.system.log import LineBudget
from mxworker.system.log_events import log_event
from mxworker.worker.block_clock import BLOCKED_AFTER_S, LOOK_EVERY_S, BlockClock, Ran, Standstill, StandstillClock
from mxworker.worker.blocking import Blocker
from mxworker.worker.thread_times import ThreadTimes

log = logging.getLogger(__name__)

_MOST_TOLD, _TOLD_IN_S = 10, 60.0  # each has a second line when the block is over
_MOST_NAMED = 5  # handlers in one line
_LAGS = round(5.0 / LOOK_EVERY_S)


class Watchdog:
    """Watches the event loop of the thread that makes it, until `stop`."""

    def __init__(
        self,
        number: int,
        loop: asyncio.AbstractEventLoop,
        find_blocker: Callable[[FrameType | None], Blocker],
        at_look: Callable[[], None] = lambda: None,
        show_lag: Callable[[float], None] = lambda lag_s: None,
        handlers_in_threads: Callable[[], Sequence[str]] = list,
    ) -> None:
        """`find_blocker` gets the innermost frame of the loop's thread. `number` is the worker's.

        `handlers_in_threads` returns the names of the handlers that run in other threads.

        At each look, in the watchdog's thread, `at_look` is called, and `show_lag` with the longest time that the loop
        took to answer in the last 5 s.
        """
        self._at_look = at_look
        self._show_lag = show_lag
        self._handlers_in_threads = handlers_in_threads
        self._lags_s: deque[float] = deque(maxlen=_LAGS)
        self._asked_at = 0.0
        self._number = number
        self._loop = loop
        self._find_blocker = find_blocker
        self._budget = LineBudget(_MOST_TOLD, _TOLD_IN_S)
        self._clock = BlockClock()
        self._standstill = StandstillClock(os.cpu_count() or 1)
        self._has_answered = True
        self._answered_at = 0.0
        self._told: Blocker | None = None
        self._is_quiet = False
        self._is_stopped = False
        self._thread = threading.Thread(target=self._watch, name="mxworker-watchdog", daemon=True)
        self._loop_thread = threading.get_ident()
        self._times = ThreadTimes(threading.get_native_id())

    def start(self) -> None:
        """Begin to watch. Call in the loop's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. A block that goes on is not logged any more."""
        self._is_stopped = True

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals interrupt the main thread only
        try:
            time.sleep(LOOK_EVERY_S)
            while not self._is_stopped and not self._loop.is_closed():
                self._look()
                self._at_look()
                time.sleep(LOOK_EVERY_S)
        except Exception:  # as far out as this thread has a frame
            if not self._loop.is_closed():
                facts = log_event("watchdog_failed", worker=self._number)
                log.exception("worker %d does not watch its event loop any more", self._number, extra=facts)
        finally:
            self._times.close()

    def _look(self) -> None:
        now = time.monotonic()
        waited_s = 0.0 if self._has_answered else now - self._asked_at
        blocker = None
        if self._told is None and (waited_s >= BLOCKED_AFTER_S or self._standstill.is_late(now)):
            # First of all, since the loop's thread may get the interpreter's lock back and go on at any moment.
            blocker = self._find_blocker(sys._current_frames().get(self._loop_thread))
        standstill = self._standstill.look(now, self._ran())
        if self._has_answered and self._asked_at:
            self._lags_s.append(max(self._answered_at - self._asked_at, standstill.lasted_s if standstill else 0.0))
        self._show_lag(max(waited_s, *self._lags_s, 0.0))
        if self._has_answered:
            if self._told is not None:
                self._clock.answer(self._answered_at)
                self._tell_end(self._told)
                self._told = None
            self._clock.restart(time.monotonic(), self._times.spent())
            self._has_answered = False
            self._asked_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)
        else:
            self._clock.no_answer(time.monotonic(), self._times.spent())
            if blocker is not None and self._clock.is_blocked:
                self._told = blocker
                self._tell(blocker)
                return
        if blocker is not None and standstill is not None:
            self._tell_standstill(standstill, blocker)

    def _ran(self) -> Ran:
        return Ran(time.process_time(), self._times.spent())

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        self._has_answered = True

    def _tell(self, blocker: Blocker) -> None:
        unsaid = self._budget.spend(time.monotonic())
        self._is_quiet = unsaid is None
        if unsaid is None:
            return
        log.warning(
            "worker %d: %s has blocked the event loop for %.1f s%s; %s%s",
            self._number,
            blocker.what,
            self._clock.blocked_s,
            blocker.where,
            blocker.advice,
            unsaid,
            extra=log_event("event_loop_blocked", **blocker.fields, blocked_s=round(self._clock.blocked_s, 1)),
        )

    def _tell_end(self, blocker: Blocker) -> None:
        if not self._is_quiet:
            log.warning(
                "worker %d: the event loop runs again; %s had blocked it for %.1f s",
                self._number,
                blocker.what,
                self._clock.blocked_s,
                extra=log_event("event_loop_freed", **blocker.fields, blocked_s=round(self._clock.blocked_s, 1)),
            )

    def _tell_standstill(self, standstill: Standstill, blocker: Blocker) -> None:
        """Log a standstill. `blocker` is what the loop's thread does now, directly after it."""
        fields: Mapping[str, object] = {}
        if standstill.is_by_loop:
            what, where, fields = blocker.what, blocker.where, blocker.fields
        else:
            names = self._handlers_in_threads()
            what = "a call in a thread"
            where = f"; handlers that run in threads: {', '.join(names[:_MOST_NAMED])}" if names else ""
        unsaid = self._budget.spend(time.monotonic())
        if unsaid is not None:
            log.warning(
                "worker %d: the event loop and all threads stood still for %.1f s, since %s kept the interpreter's "
                "lock%s; use cpu=True for what computes so long in one call, it then runs in a process of its own%s",
                self._number,
                standstill.lasted_s,
                what,
                where,
                unsaid,
                extra=log_event("interpreter_blocked", **fields, blocked_s=round(standstill.lasted_s, 1)),
            )
        self._standstill.restart(time.monotonic(), self._ran())
