"""The life of a worker: start, serve, drain.

Its duties, in order:
1. keep the heartbeat: once a second the loop writes the deadline of its next heartbeat to the board;
2. enter the application's lifespans, whose values the handlers use;
3. connect, consume every queue, and write its state to the board;
4. ask the master for a replacement when it has reached a limit of its life, or when too many handlers are stuck;
5. on request, or when a burst is over, drain: stop the deliveries, finish the running handlers, settle, leave.

`assembly` makes its parts.

This module knows nothing about forking, other workers and the command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.consuming.consumer import Consumer
from mxworker.amqp.consuming.reconcile import Reconciler
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.board.layout import Word
from mxworker.board.lifecycle import WorkerState
from mxworker.board.slot import BoardSlot
from mxworker.config.process import Consumption
from mxworker.errors import AppLoadError, BrokerError, ExitCode
from mxworker.worker.burst import until_empty
from mxworker.worker.conditions import ConditionReport
from mxworker.worker.controls import Controls
from mxworker.worker.cpu.pool import CpuPool
from mxworker.worker.cpu.process import CpuProcess
from mxworker.worker.directives import DirectiveFollower
from mxworker.worker.drain import Drain
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.threads import Threads
from mxworker.worker.heartbeat import Heartbeat
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.lost_places import LostPlaces
from mxworker.worker.performance import PerformanceLog
from mxworker.worker.queue_watch import QueueWatch
from mxworker.worker.readiness import Readiness
from mxworker.worker.shutdown import Shutdown
from mxworker.worker.start import Start
from mxworker.worker.tasks import end, first_of
from mxworker.worker.worker_metrics import WorkerMetrics


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a service."""

    pool: Pool
    publisher: Publisher
    lifespans: Lifespans
    make_handlers: Callable[[], None]
    """Fills `runners` and `consumers`, one of each for a handler. Call it when the lifespans are entered."""
    runners: list[HandlerRunner]
    consumers: list[Consumer]
    reconciler: Reconciler
    queue_watch: QueueWatch
    isolation: Isolation
    threads: Threads
    cpu: CpuPool
    controls: Controls
    conditions: ConditionReport
    directives: DirectiveFollower
    heartbeat: Heartbeat
    metrics: WorkerMetrics
    readiness: Readiness
    start: Start
    lost_places: LostPlaces
    shutdown: Shutdown
    performance: PerformanceLog


class Service:
    """One worker's service. `assembly.assemble` makes it inside a running loop; `run` is called once."""

    def __init__(self, settings: Consumption, slot: BoardSlot, parts: Parts) -> None:
        """Prepare; nothing runs before `run`."""
        self.parts = parts
        self.failure: BrokerError | AppLoadError | None = None
        """Why `run` returned ExitCode.BROKER or ExitCode.APP_LOAD."""
        self._settings = settings
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None

    # ---- requests from outside, from a signal handler of the loop

    def request_stop(self) -> None:
        """Drain and leave. A repeated request changes nothing."""
        self.parts.lifespans.give_up_entering()
        self.parts.shutdown.request()

    def request_cut(self) -> None:
        """Cancel running handlers at once, drain and leave."""
        self.request_stop()
        self.parts.shutdown.cut()

    def look_at_board(self) -> None:
        """Follow the directives that the master has written to the board, and write to it what has changed here."""
        self.parts.directives.look()
        self.parts.isolation.look()
        self.parts.conditions.look()

    # ---- state

    @property
    def state(self) -> WorkerState:
        """The state of the worker."""
        return self.parts.readiness.state

    @property
    def runners(self) -> list[HandlerRunner]:
        """The runners of the handlers; empty before the lifespans are entered."""
        return self.parts.runners

    def cpu_processes(self) -> list[CpuProcess]:
        """Return the processes for `cpu=True` handlers that are ready. May be called from any thread."""
        return self.parts.cpu.members

    @property
    def has_running_handlers(self) -> bool:
        """Whether a handler runs. A handler that still runs after `run` runs until the process ends.

        The connections are then left open for the kernel to close: the broker redelivers when it sees their end.
        """
        return any(runner.running for runner in self.runners)

    @property
    def drain_deadline(self) -> float | None:
        """The loop time by which the worker has to leave; None before the drain, 0.0 when the drain is cut short."""
        return 0.0 if self.parts.shutdown.cut_short.is_set() else self._deadline

    @property
    def was_connected(self) -> bool:
        """Whether there has been a connection to the broker."""
        return self.parts.pool.consume_link.was_up

    # ---- start, serve, drain

    async def run_or_give_up(self) -> ExitCode:
        """Do as `run` does, but return without a lifespan whose entering was given up and that cannot be cancelled."""
        lifespans = self.parts.lifespans
        running = self._loop.create_task(self.run())
        sticking = self._loop.create_task(lifespans.has_stuck.wait())
        try:
            await asyncio.wait((running, sticking), return_when=asyncio.FIRST_COMPLETED)
            return running.result() if running.done() else self._not_entered(lifespans.not_entered)
        finally:
            running.cancel()
            sticking.cancel()

    async def run(self) -> ExitCode:
        """Serve until asked to stop, until a burst is over, or until the first start has failed."""
        parts = self.parts
        parts.heartbeat.beat()
        try:
            await parts.lifespans.enter(self._settings.boot_timeout_s)
        except AppLoadError as error:
            return self._not_entered(error)
        parts.make_handlers()
        self.look_at_board()  # before anything is consumed
        parts.readiness.move(WorkerState.CONNECTING)
        carrying = self._start_duties(parts.pool.run(), parts.publisher.run(), parts.performance.run())
        consuming = self._start_duties(
            *(consumer.run() for consumer in parts.consumers), parts.reconciler.run(), parts.queue_watch.run()
        )
        try:
            self.failure = await parts.start.run()
            if self.failure is None:
                await self._serve()
            else:
                parts.shutdown.request(ExitCode.BROKER)
            return await self._drain(consuming)
        finally:
            await self._close((*consuming, *carrying))

    async def _serve(self) -> None:
        asked = self.parts.shutdown.requested
        if self._settings.burst:
            link = self.parts.pool.consume_link
            await first_of(until_empty(link, self.parts.consumers, self.runners), asked.wait())
            self._slot.words[Word.IS_BURST_OVER] = not asked.is_set()
        else:
            await asked.wait()

    async def _drain(self, consuming: list[asyncio.Task[None]]) -> ExitCode:
        """Drain, and return the exit code; `consuming` are the tasks that bring deliveries."""
        parts = self.parts
        self._deadline = self._loop.time() + self._settings.drain_timeout_s
        parts.readiness.move(WorkerState.DRAINING)
        await end(consuming)
        drain = Drain(
            parts.consumers,
            parts.runners,
            parts.isolation,
            parts.publisher,
            parts.shutdown.cut_short,
            self._deadline,
            waits_for_stuck=parts.lost_places.lost_to is None,
        )
        has_finished = await drain.run()
        parts.readiness.move(WorkerState.STOPPED)
        if parts.shutdown.exit_code is not ExitCode.OK:
            return parts.shutdown.exit_code
        return ExitCode.OK if has_finished else ExitCode.DRAIN_TIMEOUT

    async def _close(self, duties: tuple[asyncio.Task[None], ...]) -> None:
        """Leave the lifespans that were entered, and close what was opened, however far the service came."""
        parts = self.parts
        deadline = self._deadline or 0.0
        await end(duties)
        await asyncio.gather(*(consumer.abandon() for consumer in parts.consumers))
        closing = self._loop.create_task(parts.cpu.close(deadline))
        await parts.lifespans.leave(deadline)
        await closing
        parts.threads.close()
        await parts.publisher.close()
        parts.metrics.write()  # what came since the last heartbeat
        if not self.has_running_handlers:
            await parts.pool.close()

    def _start_duties(self, *duties: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Start tasks that run as long as the service does. A duty that ends before is a bug of ours."""
        tasks = [self._loop.create_task(duty) for duty in duties]
        for task in tasks:
            task.add_done_callback(self._on_duty_ended)
        return tasks

    def _on_duty_ended(self, duty: asyncio.Task[None]) -> None:
        if not duty.cancelled():
            self.parts.shutdown.break_down(duty.exception())
        elif self.state not in (WorkerState.DRAINING, WorkerState.STOPPED):
            self.parts.shutdown.break_down(None)

    def _not_entered(self, error: AppLoadError) -> ExitCode:
        self.parts.readiness.move(WorkerState.STOPPED)
        if self.parts.shutdown.requested.is_set():
            return ExitCode.OK
        self.failure = error
        return ExitCode.APP_LOAD
