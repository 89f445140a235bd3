"""Bounded concurrency for one handler: what runs, and what waits.

A delivery is *admitted* from inside the socket read. At most `concurrency` units run, each in its own task, and no more
in all of the process than there is room; the rest waits, bounded by the prefetch. The tasks are ours, not those of the
channel: one that is lost lets them finish, and their settlement is dropped as stale.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from enum import Enum, auto
from typing import Generic, TypeVar

from mxworker.worker.room import Room
from mxworker.worker.running import Running
from mxworker.worker.work import Work

Unit = TypeVar("Unit")


class Intake(Enum):
    """What happens to a unit that is admitted, or that waits."""

    OPEN = auto()
    HELD = auto()
    RETURNED = auto()


class Dispatcher(Generic[Unit]):
    """Starts the units of one handler. Belongs to one event loop."""

    def __init__(
        self,
        concurrency: int,
        running: Running[Unit],
        work: Work[Unit],
        room: Room,
        loop: asyncio.AbstractEventLoop,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        """`on_broken` is told of a bug of ours."""
        self.running = running
        self._concurrency = concurrency
        self._trial: int | None = None
        self._work = work
        self._room = room
        self._loop = loop
        self._on_broken = on_broken
        self._context = copy_context()
        self._waiting: deque[Unit] = deque()  # at most prefetch: what a lost channel left goes before more comes
        self._intake = Intake.OPEN

    @property
    def waiting(self) -> tuple[Unit, ...]:
        """The admitted units that wait for a free place."""
        return tuple(self._waiting)

    def admit(self, unit: Unit) -> None:
        """Start a unit, or let it wait for a free place."""
        if self._intake is Intake.OPEN and not self._waiting and self._has_place() and self._room.take(self):
            self._start(unit)
        elif self._intake is Intake.RETURNED:
            self._work.give_back(unit)
        else:
            self._drop_stale()
            self._waiting.append(unit)
            self.look()

    def start_one(self) -> None:
        """Start what has waited longest, if there is a place for it."""
        if self._intake is not Intake.OPEN:
            return
        self._drop_stale()
        if self._waiting and self._has_place() and self._room.take(self):
            self._start(self._waiting.popleft())
            if self._waiting and self._has_place():
                self._room.ask(self)

    def look(self) -> None:
        """Start what waits, as far as there are places for it, in turn with others that want room."""
        if self._waiting and self._has_place():
            self._room.ask(self)
            self._room.serve()

    def _has_place(self) -> bool:
        """Whether one more may run. A trial is not held up by what is stuck, which takes a place of the handler's."""
        running = self.running
        if self._trial is not None and len(running) - len(running.stuck) >= self._trial:
            return False
        return len(running) < self._concurrency

    def _drop_stale(self) -> None:
        """Forget what waits in front and came by a channel that has ended: the broker delivers it again."""
        while self._waiting and self._work.is_stale(self._waiting[0]):
            self._work.give_back(self._waiting.popleft())

    def _start(self, unit: Unit) -> None:
        # Not the context of who calls, which may be the delivery before: what that has set is its own.
        task = asyncio.Task(self._run(unit), loop=self._loop, context=self._context.copy())
        self.running.start(unit, task)

    async def _run(self, unit: Unit) -> None:
        """Take a unit to its end. Whatever is raised here is a bug of ours, and would lie unseen in the task."""
        try:
            await self._work.run(unit)
        except BaseException as error:
            if not (self.running.is_cut_short and isinstance(error, asyncio.CancelledError)):
                self._on_broken(error)
                raise
        finally:
            self.running.end(unit)
            if self._waiting and self._has_place():
                self._room.ask(self)
            self._room.leave()

    def limit(self, most: int | None) -> None:
        """Run at most `most` units at once, or as many as the handler may when None; what runs goes on."""
        self._trial = most
        self.look()

    # ---- draining

    def hold(self) -> None:
        """Start nothing more; what arrives waits."""
        self._intake = Intake.HELD

    def return_waiting(self) -> None:
        """Give back what waits now. Call when the broker has confirmed the basic.cancel."""
        while self._waiting:
            self._work.give_back(self._waiting.popleft())

    def return_all(self) -> None:
        """Give back what waits and all that still arrives."""
        self._intake = Intake.RETURNED
        self.return_waiting()
