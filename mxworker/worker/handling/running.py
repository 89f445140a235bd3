r"""The running units of one handler, their deadlines, and those that do not stop when their time is up.

    started -> finished
        \-> timed out (its task is cancelled) -> finished
                        \-> stuck, after a grace -> finished, perhaps

A *unit* is the work of one task: a delivery, or a batch. All units have the same time, and are kept in the order of
starting. So the first unit whose time is not up is always the next to expire, and one timer serves all.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from mxworker.worker.handling.clock import Clock, Timer

GRACE_S = 5.0
"""The seconds after which a cancelled handler that has not ended counts as stuck."""

Unit = TypeVar("Unit")


class Running(Generic[Unit]):
    """The started units of one handler. Belongs to one event loop; at most the handler's concurrency."""

    def __init__(
        self,
        timeout_s: float,
        loop: asyncio.AbstractEventLoop,
        on_stuck: Callable[[Unit, asyncio.Task[Any]], None],
        grace_s: float = GRACE_S,
        clock: Clock | None = None,
    ) -> None:
        """`on_stuck` is called for each unit that has not ended `grace_s` seconds after its time was up.

        `clock` is for the deadlines, by default the loop's.
        """
        self.stuck: set[Unit] = set()
        self.is_cut_short = False
        """Whether all running units were cancelled, and are left unsettled."""
        self.started: dict[Unit, tuple[asyncio.Task[Any] | None, float, float]] = {}
        """Each unit with its task, its start and the end of its time, in the order of starting. Do not change it.

        The task is None until `note_task`. Meanwhile either nothing runs, or the first step of that very task.
        """
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._loop = loop
        self._clock: Clock = clock or loop
        self._on_stuck = on_stuck
        self._timed_out: dict[Unit, float] = {}  # with the instant at which the grace ends
        self._settling: set[Unit] = set()  # or suspended: these have no deadline
        self._timer: Timer | None = None
        self._wake_at = math.inf  # the instant of the timer
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self.started)

    def items(self) -> Iterator[tuple[Unit, asyncio.Task[Any]]]:
        """Yield the units with their tasks, in the order of starting."""
        for unit, (noted, _, _) in self.started.items():
            task = noted or asyncio.current_task(self._loop)
            if task is not None:
                yield unit, task

    def task_of(self, unit: Unit) -> asyncio.Task[Any]:
        """Return the task of a unit."""
        task = self.started[unit][0] or asyncio.current_task(self._loop)
        assert task is not None, "a unit has no task before the first step of its task"
        return task

    def started_at(self, unit: Unit) -> float:
        """Return the instant at which a unit was started, or last went on after it was suspended."""
        return self.started[unit][1]

    def age_s(self, unit: Unit) -> float:
        """Return the seconds since a unit was started."""
        return self._clock.time() - self.started[unit][1]

    def start(self, unit: Unit, task: asyncio.Task[Any] | None = None) -> None:
        """Note that `unit` runs from now on. An eager task runs while it is made: call this before, without `task`."""
        now = self._clock.time()
        expires_at = now + self._timeout_s
        self.started[unit] = task, now, expires_at
        if expires_at < self._wake_at:  # nothing else runs, or the timer is set for the end of a grace
            self._wake(expires_at)

    def note_task(self, unit: Unit, task: asyncio.Task[Any]) -> None:
        """Note the task of a unit, which has not ended in the first step of the task."""
        _, started_at, expires_at = self.started[unit]
        self.started[unit] = task, started_at, expires_at

    def settle(self, unit: Unit) -> None:
        """Note that the handler has ended and only the settlement takes time. The unit has no deadline any more."""
        self._settling.add(unit)
        self._timed_out.pop(unit, None)
        self.stuck.discard(unit)
        self._changed.set()

    async def completed(self, settling: Awaitable[object]) -> None:
        """Await what settles the unit of the running task, and raise its exception. Only a cut ends it.

        Handlers leave cancellations behind: they cancel their own task and return, or forget a timer that cancels it.
        These are taken back. Otherwise they would end the wait for the confirm of a copy that is already on its way,
        and the message would be settled a second time.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None, "a unit runs in a task"
        inner = asyncio.ensure_future(_fault_of(settling))
        while not inner.done():
            try:
                await asyncio.wait((inner,))
            except asyncio.CancelledError:
                if self.is_cut_short:
                    inner.cancel()
                else:
                    task.uncancel()
        fault = inner.result()
        if fault is not None:
            raise fault

    @contextmanager
    def suspended(self, unit: Unit) -> Iterator[None]:
        """Suspend the deadline while `unit` waits for others. Afterwards the unit has its whole time."""
        self._settling.add(unit)
        try:
            yield
        finally:
            self._settling.discard(unit)
            task, _, _ = self.started.pop(unit)
            self.start(unit, task)  # at the end, since it now expires last

    def end(self, unit: Unit) -> None:
        """Note that `unit` has ended."""
        del self.started[unit]
        if self._timed_out:
            self._timed_out.pop(unit, None)
            self.stuck.discard(unit)
        if self._settling:
            self._settling.discard(unit)
        if not self._changed.is_set():
            self._changed.set()

    def is_timed_out(self, unit: Unit) -> bool:
        """Whether the time of `unit` was up before its end."""
        return unit in self._timed_out

    async def finished(self, but_stuck: bool = False) -> None:
        """Wait until no unit runs; with `but_stuck`, until only stuck ones do."""
        while len(self.started) > (len(self.stuck) if but_stuck else 0):
            self._changed.clear()
            await self._changed.wait()

    def cut_short(self) -> None:
        """Cancel the running units. They are left unsettled, so that the broker redelivers them."""
        self.is_cut_short = True
        for task, _, _ in self.started.values():
            if task is not None:
                task.cancel()

    def _expire(self) -> None:
        """Cancel units whose time is up, report those that did not end, and set the timer for the next."""
        now = self._clock.time()
        wake_at = math.inf
        for unit, (_, _, expires_at) in self.started.items():
            if expires_at > now:
                wake_at = expires_at
                break
            if unit not in self._settling and unit not in self._timed_out:
                self._timed_out[unit] = now + self._grace_s
                # In the next turn: uvloop runs timers before a new task's first step, and a task that is cancelled
                # before that never runs a line, so that its unit would never be settled.
                self._loop.call_soon(self._cancel, unit, self.task_of(unit))
        newly_stuck = []
        for unit, grace_ends_at in self._timed_out.items():
            if unit in self.stuck or unit in self._settling:
                continue
            if grace_ends_at <= now:
                newly_stuck.append(unit)
            else:
                wake_at = min(wake_at, grace_ends_at)
        self._wake(wake_at)  # before `on_stuck`, whose error would leave all others without a deadline
        self.stuck.update(newly_stuck)
        for unit in newly_stuck:
            self._changed.set()
            self._on_stuck(unit, self.task_of(unit))

    def _cancel(self, unit: Unit, task: asyncio.Task[Any]) -> None:
        """Cancel a unit whose time is up, unless its handler has ended meanwhile."""
        if unit in self._timed_out and unit not in self._settling:
            task.cancel()

    def _wake(self, at: float) -> None:
        """Set the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = at
        self._timer = None if at == math.inf else self._clock.call_at(at, self._expire)


async def _fault_of(settling: Awaitable[object]) -> BaseException | None:
    """Await `settling` and return its exception: a task that raises SystemExit would end the event loop."""
    try:
        await settling
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return error
    return None
