"""Bounded concurrency for one handler: which units run, and which wait.

A delivery is *admitted* while the socket is read. At most `concurrency` units run, each in its own task, and no more in
the whole process than the limiter allows. The rest waits, bounded by the prefetch. A suspect is *set apart*: it waits
in a line of its own until it can run alone in the process (see `isolation`). It is given back when it has waited so
long that the broker might close the channel for it. The tasks belong to the dispatcher and not to the channel: when a
channel is lost, its tasks finish, and their settlements are dropped as stale.

From Python 3.12 on, tasks are eager: the first step of a task runs while the task is made, after the read was parsed. A
handler that awaits nothing ends there. Such a unit keeps its place until the next turn of the event loop. So a turn has
no more first steps than there are places, however many deliveries wait, and starts are not nested in each other.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from mxworker.system.foreign_errors import is_a
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.running import Running
from mxworker.worker.handling.unsent import TURNS
from mxworker.worker.handling.work import Work

Unit = TypeVar("Unit")


class Intake(Enum):
    """How admitted and waiting units are treated: they are started, kept waiting, or given back."""

    OPEN = auto()
    HELD = auto()
    RETURNED = auto()


class Alone(Enum):
    """Which units run alone in the process."""

    SUSPECTS = auto()
    ALL = auto()
    RESTING = auto()
    """All units, and none is started for now."""


_Task: Any = asyncio.Task  # its type in Python 3.11 has no `eager_start`
_ARE_EAGER = sys.version_info >= (3, 12)

# Read for every unit: on Python 3.11 an Enum takes 0.1 us to find its member.
_OPEN, _RETURNED = Intake.OPEN, Intake.RETURNED


class Dispatcher(Generic[Unit]):
    """Starts the units of one handler. Belongs to one event loop."""

    def __init__(
        self,
        concurrency: int,
        running: Running[Unit],
        work: Work[Unit],
        limiter: Limiter,
        isolation: Isolation,
        loop: asyncio.AbstractEventLoop,
        on_broken: Callable[[BaseException], None],
        longest_apart_s: float,
        in_order: bool = False,
    ) -> None:
        """`on_broken` is called when even the rescue of a unit has failed, which is a bug of ours.

        Units that are set apart are given back after `longest_apart_s`. With `in_order` no unit overtakes them.
        """
        self.running = running
        self._concurrency = concurrency
        self._trial: int | None = None
        self._work = work
        self._limiter = limiter
        self._isolation = isolation
        isolation.mind(running)
        self._in_order = in_order
        self._loop = loop
        self._on_broken = on_broken
        self._context = copy_context()
        self._waiting: deque[Unit] = deque()  # at most prefetch: units of a lost channel are dropped before more come
        self._apart: dict[Unit, asyncio.TimerHandle] = {}  # at most prefetch, too, in their order
        self._alone = Alone.SUSPECTS
        self._longest_apart_s = longest_apart_s
        self._is_first_step = False  # whether the first step of an eager task of a unit runs
        self._ended_at_once = 0  # units that ended in their first step, and keep their places until the next turn
        self._come_next = 0  # the number of units that `run_next` put in front, since the last start
        self._intake = Intake.OPEN

    @property
    def waiting(self) -> tuple[Unit, ...]:
        """The admitted units that wait for a free place, or for their turn to run alone."""
        return (*self._apart, *self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether units of all handlers may start: there is no drain, and no suspect has its turn to run alone."""
        return self._intake is _OPEN and not self._limiter.is_closed

    def admit(self, *units: Unit) -> None:
        """Start units while there are places, and let the others wait for one."""
        if self._intake is _RETURNED:
            for unit in units:
                self._work.give_back(unit)
            return
        started = 0
        if not self._waiting and self._intake is _OPEN:
            started = self._limiter.take(self, min(len(units), self._places()))
            for unit in units[:started]:
                self._start(unit)
        if started < len(units):
            self._drop_stale()
            self._waiting += units[started:]
            self.look()

    def run_next(self, unit: Unit) -> None:
        """Put a unit before all others that wait. Call it while the unit that it comes from runs, in their order."""
        if self.runs_all_alone and self._intake is _OPEN:
            self.set_apart(unit)
            for behind in list(self._apart)[self._come_next : -1]:
                self._apart[behind] = self._apart.pop(behind)
            self._come_next += 1
            return
        self._waiting.insert(self._come_next, unit)
        self._come_next += 1

    def start_one(self) -> None:
        """Start the unit that has waited longest, if there is a place for it."""
        if self._intake is not _OPEN:
            return
        self._drop_stale()
        if self._waiting and self._places() and self._limiter.take(self):
            self._start(self._waiting.popleft())
            if self._waiting and self._places():
                self._limiter.ask(self)

    def _start_waiting(self, most: int) -> int:
        """Start up to `most` waiting units in the places of units that have ended; return how many.

        At the usual concurrency half of all units wait. Leaving the limiter and asking it for places again would take
        longer.
        """
        started = 0
        if self._intake is _OPEN:
            most = min(most, self._places())
            while started < most and self._waiting:
                unit = self._waiting.popleft()
                if self._work.is_stale(unit):
                    self._work.give_back(unit)
                else:
                    self._start(unit)
                    started += 1
        return started

    def look(self) -> None:
        """Start waiting units while there are places, in turn with other dispatchers that want one."""
        if self._waiting and self._places():
            self._limiter.ask(self)
            self._limiter.serve()

    def _places(self, alone: bool = False) -> int:
        """Return how many more units may run, beside others or alone.

        A stuck unit takes a place of the handler, but not a place of a circuit breaker's trial.
        """
        if self._apart and self._in_order and not alone:
            return 0
        running = self.running
        # Of the dict itself: `len(running)` takes 0.1 us more.
        count = len(running.started) + (0 if alone else self._ended_at_once)
        places = self._concurrency - count
        if self._trial is not None:
            places = min(places, self._trial - count + len(running.stuck))
        return max(0, places)  # a unit that runs alone needs no place, and is counted all the same

    def _drop_stale(self) -> None:
        """Drop the first waiting units whose channel has ended, since the broker redelivers them."""
        while self._waiting and self._work.is_stale(self._waiting[0]):
            self._work.give_back(self._waiting.popleft())

    def _start(self, unit: Unit, is_alone: bool = False) -> None:
        """Run a unit in a task of its own. Its first step, which may be its last, is over when this returns.

        Not so before Python 3.12, and for a unit that runs alone: then `isolation` is in the midst of a decision.
        """
        # Not the caller's context: the caller may be the task of another delivery, with context variables of its own.
        context = self._context.copy()
        self._come_next = 0
        if is_alone or not _ARE_EAGER:
            self.running.start(unit, asyncio.Task(self._run(unit, is_alone), loop=self._loop, context=context))
            return
        self.running.start(unit)
        self._is_first_step = True
        try:
            task = _Task(self._run(unit), loop=self._loop, context=context, eager_start=True)
        finally:
            self._is_first_step = False
        if not task.done():
            self.running.note_task(unit, task)
            return
        if not self._ended_at_once:
            self._loop.call_soon(self._begin_turn)
        self._ended_at_once += 1

    async def _run(self, unit: Unit, is_alone: bool = False) -> None:
        """Run a unit to its end. With `is_alone`, clear it of suspicion, since the process has survived it.

        This is the outermost coroutine of the task. Only this one can go on when an awaitable of the handler raises
        GeneratorExit, which closes all coroutines inside.
        """
        was_executed = True
        try:
            try:
                was_executed = await self._work.run(unit)
            except BaseException as error:
                if not self._is_given_up(unit, error):
                    await self._rescue(unit, error)
            if is_alone and was_executed and not self.running.is_cut_short:
                self.running.settle(unit)
                for _ in range(TURNS):  # a task that the unit left behind may end the process
                    await asyncio.sleep(0)
                self._work.clear(unit)  # before others start, which may end the process
        finally:
            self.running.end(unit)
            if self._apart and self._intake is _OPEN and self._alone is not Alone.RESTING:
                self._isolation.ask(self)
            if not self._is_first_step:
                self._pass_on(1)

    def _pass_on(self, count: int) -> None:
        """Give the places of `count` units that have ended to units that wait, or back to the limiter."""
        if self._waiting and self._limiter.is_uncontended:
            count -= self._start_waiting(count)
        if count:
            if self._waiting and self._places():
                self._limiter.ask(self)
            self._limiter.leave(count)

    def _begin_turn(self) -> None:
        """Pass on the places of the units that ended in their first step in the last turn of the event loop."""
        count, self._ended_at_once = self._ended_at_once, 0
        self._pass_on(count)

    def _is_given_up(self, unit: Unit, error: BaseException) -> bool:
        """Whether `error` ends a unit that is left unsettled: it is cut short, or its task is no longer run."""
        if is_a(error, GeneratorExit):
            return asyncio.current_task(self._loop) is not self.running.task_of(unit)
        return self.running.is_cut_short and is_a(error, asyncio.CancelledError)

    async def _rescue(self, unit: Unit, error: BaseException) -> None:
        """Settle a unit whose run has failed. An error of the rescue is reported, since no code reads the task's."""
        try:
            await self._work.rescue(unit, error)
        except BaseException as fault:
            if not self._is_given_up(unit, fault):
                self._on_broken(fault)
                raise

    def limit(self, most: int | None) -> None:
        """Run at most `most` units at once; None removes the limit. Running units go on."""
        self._trial = most
        self._loop.call_soon(self.look)  # not now: the caller may be a unit, in its first step

    # ---- units that run alone

    @property
    def runs_all_alone(self) -> bool:
        """Whether all units run alone, and not only suspects."""
        return self._alone is not Alone.SUSPECTS

    def run_alone(self, alone: Alone) -> list[Unit]:
        """Change which units run alone. Units that were set apart and need not run alone any more wait for a place.

        When all units begin to run alone, returns those that waited for a place. You must set their messages apart.
        """
        former, self._alone = self._alone, alone
        if former is alone:
            return []
        if alone is Alone.RESTING:
            self._isolation.withdraw(self)
        elif former is Alone.RESTING and self._apart and self._intake is _OPEN:
            self._isolation.ask(self)
        if alone is Alone.SUSPECTS:
            self.let_go_innocent()
        if former is not Alone.SUSPECTS:
            return []
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def set_apart(self, unit: Unit) -> None:
        """Let a unit wait until no other unit runs in the process, and then run it alone."""
        if self._intake is not _OPEN:
            self.admit(unit)
            return
        self._drop_stale_apart()
        self._apart[unit] = self._loop.call_later(self._longest_apart_s, self._give_up_waiting, unit)
        if self._alone is not Alone.RESTING:
            self._isolation.ask(self)

    def _drop_stale_apart(self) -> None:
        """Do as `_drop_stale` does, for units that were set apart."""
        while self._apart and self._work.is_stale(unit := next(iter(self._apart))):
            self._return_apart(unit)

    def _give_up_waiting(self, unit: Unit) -> None:
        """Give back a unit that has waited too long. It stays a suspect.

        Where order is promised, all units behind it go back with it.
        """
        if self._in_order:
            self.return_waiting()
            return
        self._return_apart(unit)
        if not self._apart:
            self._isolation.withdraw(self)

    def _return_apart(self, unit: Unit) -> None:
        self._leave_line(unit)
        self._work.give_back(unit)

    def _leave_line(self, unit: Unit) -> None:
        self._apart.pop(unit).cancel()  # the timer would hold the unit with its body until it fires

    def let_go_innocent(self) -> None:
        """Move units that were set apart, and that the master does not know as suspects, to those that wait."""
        innocent = [] if self.runs_all_alone else [unit for unit in self._apart if not self._work.is_suspect(unit)]
        if not innocent:
            return
        for unit in innocent:
            self._leave_line(unit)
        if not self._apart:
            self._isolation.withdraw(self)
        self._waiting.extendleft(reversed(innocent))  # they came before those that wait there
        self.look()

    def start_alone(self) -> int | None:
        """Start the unit that was set apart first and return its key; None when there is none, or no place."""
        self._drop_stale_apart()
        if not self._apart:
            self.look()  # starts the units that waited behind them, where order is promised
            return None
        if not self._places(alone=True) or self._intake is not _OPEN:
            return None
        unit = next(iter(self._apart))
        self._leave_line(unit)
        self._limiter.enter_closed()
        self._start(unit, is_alone=True)
        if self._apart:
            self._isolation.ask(self)
        return self._work.key(unit)

    # ---- draining

    def hold(self) -> None:
        """Start no further unit. New units wait."""
        self._intake = Intake.HELD

    def return_waiting(self) -> None:
        """Give back the units that wait now. Call when the broker has confirmed the basic.cancel."""
        for unit in tuple(self._apart):
            self._return_apart(unit)
        while self._waiting:
            self._work.give_back(self._waiting.popleft())
        self._isolation.withdraw(self)

    def return_all(self) -> None:
        """Give back the units that wait, and all that still arrive."""
        self._intake = Intake.RETURNED
        self.return_waiting()
