"""The parts of one handler in a worker process: its deliveries wait, run, are reported and settled in them.

admit -> (gathering) -> dispatcher -> work: execution -> settling
                         |      |
                 isolation    running: deadlines, grace, stuck units

`assembly` makes the parts and connects them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.api.context import WorkerResources
from mxworker.api.delivery import Delivery
from mxworker.board.slot import BoardSlot
from mxworker.config.bounds import DEFAULT_QUARANTINE_AFTER
from mxworker.system.log import say_safely
from mxworker.system.log_events import log_event
from mxworker.system.task_stacks import task_stack
from mxworker.worker.handling.batching import Gathered, Gatherer
from mxworker.worker.handling.breaker_driver import HandlerBreaker
from mxworker.worker.handling.clock import Clock
from mxworker.worker.handling.decode_budget import DecodeBudget, unlimited
from mxworker.worker.handling.dispatcher import Alone, Dispatcher
from mxworker.worker.handling.execution import Execute
from mxworker.worker.handling.handler_metrics import HandlerMetrics
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.record import Record, Standing
from mxworker.worker.handling.report import Report
from mxworker.worker.handling.running import GRACE_S, Running
from mxworker.worker.handling.threads import Threads
from mxworker.worker.handling.work import Watch

log = logging.getLogger(__name__)

SHOWN_FRAMES = 8

# Called for every delivery, and faster than functions.
_body_of: Callable[[Delivery], bytes] = attrgetter("body")
_is_redelivered: Callable[[Delivery], bool] = attrgetter("redelivered")

ExecuteInProcess = Callable[[Handler, Report, Callable[[Delivery], AbstractContextManager[object]]], Execute]


@dataclass(frozen=True, slots=True)
class ProcessScope:
    """The parts that all runners of a process share.

    `on_broken` is called for a bug of ours, `on_stuck` for each stuck handler. `execute_in_process` is set when a
    handler has `cpu=True`: it returns the function that takes deliveries to settlements in another process.
    `quarantine_after`: see `config.Consumption`. `clock` is for deadlines, batches and circuit breakers; what
    `watch_for` returns for a handler gets its settlements. Without `has_metrics`, only outcomes are counted, for a
    benchmark.
    """

    slot: BoardSlot
    loop: asyncio.AbstractEventLoop
    clock: Clock
    limiter: Limiter
    isolation: Isolation
    threads: Threads
    rng: random.Random
    on_broken: Callable[[BaseException], None]
    on_stuck: Callable[[], None] = lambda: None
    resources: WorkerResources | None = None
    grace_s: float = GRACE_S
    execute_in_process: ExecuteInProcess | None = None
    quarantine_after: int = DEFAULT_QUARANTINE_AFTER
    decode_budget: DecodeBudget = field(default_factory=unlimited)
    watch_for: Callable[[Handler], Watch] | None = None
    has_metrics: bool = True


@dataclass(frozen=True, slots=True)
class AtWork:
    """A delivery or batch that a handler runs, with its age and its stack, the innermost frame last."""

    deliveries: list[Delivery]
    task: asyncio.Task[Any]
    age_s: float
    stack: list[str]


class HandlerRunner:
    """Runs one handler. `admit` takes its deliveries while the socket is read."""

    def __init__(
        self,
        handler: Handler,
        record: Record,
        running: Running[Any],
        dispatcher: Dispatcher[Any],
        gatherer: Gatherer | None,
        give_back: Callable[[Any], None],
        breaker: HandlerBreaker,
        process: ProcessScope,
        metrics: HandlerMetrics | None,
        tell_rest: Callable[[float], None],
    ) -> None:
        """`gatherer` is for a batch handler; `give_back` settles a unit as not processed.

        For `tell_rest` see `DeliveryLog`.
        """
        self.handler = handler
        self.breaker = breaker
        self.metrics = metrics
        self.tell_rest = tell_rest
        self._record = record
        self._running = running
        self._dispatcher = dispatcher
        self._gatherer = gatherer
        self._give_back = give_back
        self._process = process
        self._admit_innocent: Callable[[*tuple[Delivery, ...]], None] = self._in_company

    def admit(self, *deliveries: Delivery) -> None:
        """Take the deliveries of one read, and start them or let them wait.

        A suspect is a unit of its own, and runs alone.
        """
        metrics = self.metrics
        if metrics is not None:
            metrics.received_bytes += sum(map(len, map(_body_of, deliveries)))
        if not any(map(_is_redelivered, deliveries)):
            self._admit_innocent(*deliveries)
            return
        for delivery in deliveries:
            if delivery.redelivered:
                self._admit_redelivered(delivery)
            else:
                self._admit_innocent(delivery)

    def _admit_redelivered(self, delivery: Delivery) -> None:
        if self.metrics is not None:
            self.metrics.note_redelivered()
        match self._record.standing(delivery):
            case Standing.INNOCENT:
                self._admit_innocent(delivery)
            case Standing.DOUBTFUL | Standing.SUSPECT:
                self._set_apart(delivery)
            case Standing.CONVICTED:
                self._dispatcher.admit(self._unit_of(delivery))

    def run_alone(self, is_wanted: bool, rests: bool) -> None:
        """Run all deliveries alone from now on, including those that wait; or, without `is_wanted`, only suspects.

        With `rests`, no delivery that runs alone is started.
        """
        ran_alone = self._dispatcher.runs_all_alone
        alone = Alone.RESTING if rests else Alone.ALL
        waiting = self._dispatcher.run_alone(alone if is_wanted else Alone.SUSPECTS)
        if is_wanted == ran_alone:
            return
        if not is_wanted:
            self._admit_innocent = self._in_company
            return
        self._admit_innocent = self._set_apart
        gathered = self._gatherer.take() if self._gatherer is not None else None
        for unit in (*waiting, *([gathered] if gathered is not None else [])):
            self._set_apart(*_deliveries(unit))

    def _set_apart(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            self._dispatcher.set_apart(self._unit_of(delivery))

    @property
    def _in_company(self) -> Callable[[*tuple[Delivery, ...]], None]:
        return self._dispatcher.admit if self._gatherer is None else self._gatherer.add

    def run_next(self, delivery: Delivery) -> None:
        """Put a delivery before all others that wait, to be executed again."""
        self._dispatcher.run_next(self._unit_of(delivery))

    def _unit_of(self, delivery: Delivery) -> Delivery | Gathered:
        return delivery if self._gatherer is None else Gathered.alone(delivery)

    # ---- state

    @property
    def is_idle(self) -> bool:
        """Whether no delivery runs and none waits."""
        return not self.running and not self.waiting

    @property
    def running(self) -> int:
        """The number of units that run."""
        return len(self._running)

    @property
    def in_flight(self) -> int:
        """The number of deliveries in the units that run."""
        return sum(len(_deliveries(unit)) for unit in self._running.started)

    @property
    def running_s(self) -> float:
        """The time for which the units that run have gone on so far, all together."""
        now = self._process.clock.time()
        return sum(now - started_at for _, started_at, _ in self._running.started.values())

    @property
    def stuck(self) -> int:
        """The number of running units that did not stop when their time was up."""
        return len(self._running.stuck)

    @property
    def gathering(self) -> tuple[Delivery, ...]:
        """The deliveries that wait for their batch to be complete."""
        return self._gatherer.gathering if self._gatherer is not None else ()

    @property
    def waiting(self) -> int:
        """The number of deliveries that wait for a free place, or for their batch to be complete."""
        gathering = self._gatherer.waiting if self._gatherer is not None else 0
        return gathering + sum(len(_deliveries(unit)) for unit in self._dispatcher.waiting)

    def at_work(self) -> Iterator[AtWork]:
        """Yield the running units, in the order of starting. For another process the stack is that of the wait."""
        for unit, task in self._running.items():
            yield AtWork(_deliveries(unit), task, self._running.age_s(unit), self._stack_of(task))

    def at_work_in(self, task: asyncio.Task[Any] | None) -> AtWork | None:
        """Return the unit that `task` runs, None when it is not this handler's. Another thread may call this."""
        try:
            running = list(self._running.items())
            unit = next((unit for unit, one in running if one is task), None)
            if task is None or unit is None:
                return None
            age_s = self._running.age_s(unit)
        except (RuntimeError, KeyError):  # the loop's thread has changed the units, so the loop is not blocked any more
            return None
        return AtWork(_deliveries(unit), task, age_s, self._stack_of(task))

    def is_run_by(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task` runs a unit of this handler. Another thread may call this."""
        try:
            return any(one is task for _, one in self._running.items())
        except RuntimeError:  # the loop's thread has changed the units meanwhile
            return False

    def _stack_of(self, task: asyncio.Task[Any]) -> list[str]:
        return self._process.threads.stack_of(task) or task_stack(task)

    # ---- stopping

    def hold(self) -> None:
        """Start no further unit. New deliveries wait."""
        self._dispatcher.hold()
        self.breaker.stop()  # deliveries that still run do not count any more

    def return_waiting(self) -> None:
        """Give back the deliveries that wait now. Call when the broker has confirmed the basic.cancel."""
        self._dispatcher.return_waiting()
        self._process.decode_budget.give_back(self.handler.queue.name)
        gathered = self._gatherer.take() if self._gatherer is not None else None
        if gathered is not None:  # directly, since a dispatcher that is not held would start it
            self._give_back(gathered)

    def return_all(self) -> None:
        """Give back the deliveries that wait, and all that still arrive."""
        self._dispatcher.return_all()
        self._process.decode_budget.give_back(self.handler.queue.name)
        if self._gatherer is not None:
            self._gatherer.stop()

    async def finished(self, but_stuck: bool = False) -> None:
        """Wait until no unit runs; with `but_stuck`, until only stuck ones do."""
        await self._running.finished(but_stuck)

    def cut_short(self) -> None:
        """Cancel the running units. They are left unsettled, so that the broker redelivers them."""
        self._running.cut_short()

    # ---- stuck units

    def report_stuck(self, unit: Delivery | Gathered, task: asyncio.Task[Any]) -> None:
        """Log a unit that did not stop when its time was up, and look which others may start now."""
        handler, first = self.handler, _deliveries(unit)[0]
        say_safely(
            log,
            logging.ERROR,
            "handler %s is stuck on message %s of queue %s: it did not stop %g s after its %g s were up "
            "(%d of %d places are lost to such handlers); it is at %s",
            handler.name,
            first.shown_id or f"(no id, delivery tag {first.delivery_tag})",
            handler.queue.name,
            self._process.grace_s,
            handler.timeout_s,
            self.stuck,
            handler.concurrency,
            " > ".join(self._stack_of(task)[-SHOWN_FRAMES:]),
            fields=log_event(
                "handler_stuck",
                handler=handler.name,
                queue=handler.queue.name,
                message_id=first.shown_id,
                stuck=self.stuck,
                concurrency=handler.concurrency,
            ),
        )
        self.breaker.note_stuck(self._process.clock.time() - handler.timeout_s - self._process.grace_s)
        self._process.loop.call_soon(self._dispatcher.look)  # not now: `Running` may have more to report
        self._process.loop.call_soon(self._process.isolation.review)
        self._process.on_stuck()

    @property
    def is_lost_to_stuck(self) -> bool:
        """Whether half of the handler's places are stuck, so that the process should be replaced."""
        return 2 * self.stuck >= self.handler.concurrency


def _deliveries(unit: Delivery | Gathered) -> list[Delivery]:
    return unit.deliveries if isinstance(unit, Gathered) else [unit]
