"""Bounded concurrency for one handler: which deliveries run, which wait, and when one has run too long.

A delivery is *admitted* from inside the socket read. At most `concurrency` run, each in its own task; the rest wait,
bounded by the prefetch. The tasks are ours, not the channel's: a lost channel lets them finish, and their settlement is
dropped as stale.

Invariants:
- Exactly one settlement per delivery, except for those cut short by a drain: unless their handler still succeeds, they
  stay unacked, for the broker to deliver again.
- `running` is in the order of starting and all its deadlines are the same time away, so the first entry is always the
  next to expire: one timer serves all.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from enum import Enum, auto

from mxworker.board import BoardSlot, Word
from mxworker.context import Equipment
from mxworker.delivery import Delivery
from mxworker.handlers import Handler
from mxworker.properties import message_id_bytes
from mxworker.settlement import Ack, Requeue, Settlement
from mxworker.worker.execution import pipeline
from mxworker.worker.report import Report


class Intake(Enum):
    """What happens to a delivery that is admitted, or that waits."""

    OPEN = auto()
    HELD = auto()
    RETURNED = auto()


class Dispatcher:
    """Runs the deliveries of one handler. Belongs to one event loop."""

    def __init__(
        self,
        index: int,
        handler: Handler,
        slot: BoardSlot,
        loop: asyncio.AbstractEventLoop,
        on_broken: Callable[[BaseException], None],
        equipment: Equipment | None = None,
    ) -> None:
        """`index` is the handler's place in the board's directory; `on_broken` is told of a bug of ours.

        `equipment` is what handlers find in their context.
        """
        self.handler = handler
        self.running: dict[Delivery, tuple[asyncio.Task[None], float]] = {}
        """The started deliveries with their tasks and the loop times at which they expire."""
        self._index = index
        self._slot = slot
        self._loop = loop
        self._on_broken = on_broken
        self._context = copy_context()
        self._report = Report(handler)
        self._execute = pipeline(handler, self._report, equipment)
        self._waiting: deque[Delivery] = deque()  # at most prefetch: what a lost channel left goes before more comes
        self._intake = Intake.OPEN
        self._timed_out: set[Delivery] = set()
        self._is_cut_short = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self._waiting

    @property
    def waiting(self) -> int:
        """How many admitted deliveries wait for a free place."""
        return len(self._waiting)

    def admit(self, delivery: Delivery) -> None:
        """Start a delivery, or let it wait for a free place."""
        if self._intake is Intake.OPEN and len(self.running) < self.handler.concurrency:
            self._start(delivery)
        elif self._intake is Intake.RETURNED:
            delivery.source.give_back(delivery)
        else:
            self._drop_stale()
            self._waiting.append(delivery)

    def _drop_stale(self) -> None:
        """Forget what waits in front and came by a channel that has ended: the broker delivers it again."""
        while self._waiting and self._waiting[0].source.is_lost:
            self._waiting.popleft()
            self._slot.words[Word.STALE] += 1

    def _start(self, delivery: Delivery) -> None:
        loop = self._loop
        expires_at = loop.time() + self.handler.timeout_s
        # Not the context of who calls, which may be the delivery before: what that has set is its own.
        task = asyncio.Task(self._run(delivery), loop=loop, context=self._context.copy())
        self.running[delivery] = task, expires_at
        if self._timer is None:
            self._timer = loop.call_at(expires_at, self._expire)

    async def _run(self, delivery: Delivery) -> None:
        """Take a delivery to its end. Whatever is raised here is a bug of ours, and would lie unseen in the task."""
        try:
            settlement = await self._executed(delivery)
            # Who was told to leave may turn that into an error of its own; only a success still counts then.
            if settlement is not None and (not self._is_cut_short or isinstance(settlement, Ack)):
                self._settle(delivery, settlement)
            self._forget(delivery)
        except BaseException as error:
            self._on_broken(error)
            raise

    async def _executed(self, delivery: Delivery) -> Settlement | None:
        """Run the handler, on record in the board; None when it was cut short."""
        slot = self._slot
        message_id = message_id_bytes(delivery.raw_properties)
        entry = slot.enter(self._index, delivery.delivery_tag, 1, message_id, time.monotonic_ns())
        try:
            return await self._execute(delivery)
        except asyncio.CancelledError:
            if self._is_cut_short:
                return None
            return self._report.cancelled(delivery, timed_out=delivery in self._timed_out)
        finally:
            slot.leave(entry)

    def _settle(self, delivery: Delivery, settlement: Settlement) -> None:
        words = self._slot.words
        source = delivery.source
        match settlement:
            case Ack():
                word, sent = Word.ACKED, source.ack(delivery)
            case Requeue():
                word, sent = Word.REQUEUED, source.reject(delivery, requeue=True)
            case _:
                word, sent = Word.REJECTED, source.reject(delivery, requeue=False)
        words[word if sent else Word.STALE] += 1

    def _forget(self, delivery: Delivery) -> None:
        """Give the place of a finished delivery to the next one that waits."""
        del self.running[delivery]
        if self._timed_out:
            self._timed_out.discard(delivery)
        if self._intake is Intake.OPEN:
            self._drop_stale()
            if self._waiting:
                self._start(self._waiting.popleft())
                return
        if not self.running:
            self._idle.set()

    # ---- deadlines

    def _expire(self) -> None:
        """Cancel what has run too long; wake up again when the next one would have."""
        self._timer = None
        now = self._loop.time()
        for delivery, (task, expires_at) in self.running.items():
            if expires_at > now:
                self._timer = self._loop.call_at(expires_at, self._expire)
                return
            if delivery not in self._timed_out:
                self._timed_out.add(delivery)
                task.cancel()

    # ---- draining

    def hold(self) -> None:
        """Start nothing more; what arrives waits."""
        self._intake = Intake.HELD

    def return_waiting(self) -> None:
        """Give back what waits and all that still arrives. Call when the broker has confirmed the basic.cancel."""
        self._intake = Intake.RETURNED
        while self._waiting:
            delivery = self._waiting.popleft()
            delivery.source.give_back(delivery)

    async def finished(self) -> None:
        """Wait until nothing runs."""
        while self.running:
            self._idle.clear()
            await self._idle.wait()

    def cut_short(self) -> None:
        """Cancel what runs; it is left unacked, so that the broker delivers it again."""
        self._is_cut_short = True
        for task, _ in self.running.values():
            task.cancel()
