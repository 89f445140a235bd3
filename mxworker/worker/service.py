"""The life of a worker: start, serve, drain.

Its duties, in order:
1. keep the heartbeat: every second of its loop it promises the master the next one;
2. enter the application's lifespans, which its handlers stand on;
3. connect and consume every queue, and say on the board how far that is;
4. tell the master when it should be replaced: it has reached a limit of its life, or too many handlers are stuck;
5. on request, or when a burst is over, drain: stop the deliveries, finish what runs, settle, leave.

Must not know: how it was forked, other workers, the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from mxworker.amqp.connecting.pool import Pool
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.byte_budget import ByteBudget
from mxworker.amqp.consuming.consumer import REPLY_DEADLINE_S, UNPROVEN, Consumer
from mxworker.amqp.consuming.declared import DeclaredQueues
from mxworker.amqp.consuming.faulty_queues import FaultyQueues
from mxworker.amqp.consuming.reconcile import Reconciler
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.context import WorkerResources, WorkerStats
from mxworker.api.message import Encoder
from mxworker.api.queues import Queue
from mxworker.board.check import latest_deadline_ns
from mxworker.board.directives import Directives, no_directives
from mxworker.board.layout import Word
from mxworker.board.lifecycle import Wish, WorkerState, next_worker_state
from mxworker.board.slot import BoardSlot
from mxworker.config import Consumption, format_duration
from mxworker.errors import AppLoadError, BrokerError, ChannelLost, ConnectionLost, ExitCode, TopologyRefused
from mxworker.payloads.serializers import NO_SERIALIZERS, Serializer
from mxworker.system.child import ring
from mxworker.system.log import as_set_up
from mxworker.worker.burst import until_empty
from mxworker.worker.cpu.pool import CpuPool
from mxworker.worker.cpu.protocol import MemberSettings
from mxworker.worker.directives import DirectiveFollower
from mxworker.worker.drain import Drain
from mxworker.worker.handling.decode_budget import DecodeBudget
from mxworker.worker.handling.handler_runner import HandlerRunner, ProcessScope
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.payload_size import expected_growth
from mxworker.worker.handling.threads import Threads
from mxworker.worker.lifespans import Lifespans
from mxworker.worker.recycling import Recycling
from mxworker.worker.start_deadline import StartDeadline
from mxworker.worker.tasks import end, first_of

log = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0
# Of many queues, so many are declared at a time: the broker takes its time (21 s were seen for 300 of them), and a
# queue's time for an answer must not be spent in waiting behind all others.
_OPEN_AT_ONCE = 32
_NS_PER_S = 1_000_000_000
_ASKED = "asked"
_FAILED = (Word.REQUEUED, Word.RETRIED, Word.REJECTED, Word.QUARANTINED)
_COUNTED = (Word.ACKED, *_FAILED)


class Service:
    """One worker's service. Made inside a running loop; `run` is called once."""

    def __init__(
        self,
        settings: Consumption,
        handlers: Sequence[Handler],
        slot: BoardSlot,
        must_start: Callable[[], bool],
        show: Callable[[WorkerState], None],
        serializers: Mapping[str, Serializer] = NO_SERIALIZERS,
        declared: Sequence[Queue] = (),
        orders: Directives | None = None,
    ) -> None:
        """`must_start` says whether a start may fail for good; `show` is told every state, for the process title.

        `serializers` make the bodies of what handlers publish, by content type; `declared` are the queues that are
        declared and not consumed; `orders` are those of the master.
        """
        loop = asyncio.get_running_loop()
        self.state = WorkerState.BOOTING
        self.failure: BrokerError | AppLoadError | None = None
        """Why `run` returned ExitCode.BROKER or ExitCode.APP_LOAD."""
        self.runners: list[HandlerRunner] = []
        rng = random.Random()  # noqa: S311  not for secrets; seeded by the system, here after the fork
        process_name = f"mxworker {settings.app} worker {slot.number}"
        self.pool = Pool(
            settings.pool,
            settings.brokers,
            process_name,
            self._look_around,
            rng,
            self._level_of,
            settings.max_body_bytes,
        )
        self._link = self.pool.consume_link
        encoder = Encoder(None, serializers, settings.publisher.max_body_bytes)
        self.publisher = Publisher(self.pool.publish_link, settings.publisher, encoder, rng)
        self._settings = settings
        self._slot = slot
        self._timeouts_s = (settings.heartbeat_timeout_s, settings.boot_timeout_s, settings.drain_timeout_s)
        self._counted_before = {word: slot.words[word] for word in _COUNTED}
        self._must_start = must_start
        self._show = show
        self._loop = loop
        self._handlers = handlers
        self._declared = declared
        self._rng = rng
        self._limiter = Limiter(settings.process_concurrency)
        self._isolation = Isolation(slot, self._limiter, loop)
        self.consumers: list[Consumer] = []
        self._directives = DirectiveFollower(orders or no_directives(), self.consumers, self.runners)
        self._lifespans = Lifespans(handlers)
        self._threads = Threads(_places_for(HandlerKind.THREAD, handlers, settings.process_concurrency))
        self.cpu = CpuPool(
            MemberSettings.of(settings, slot.number, os.getpid(), as_set_up()),
            _places_for(HandlerKind.PROCESS, handlers, settings.process_concurrency),
            rng,
            self.publisher,
        )
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._deadline: float | None = None
        self._is_unproven = slot.is_on_trial and len(handlers) > 1
        self._has_been_ready = False
        self._is_broken = False
        self._is_stuck = False
        self._lifetime = Recycling(settings.limits, slot, rng)
        for index, handler in enumerate(handlers):
            slot.name_handler(index, handler.name, handler.queue.name)

    # ---- requests from outside, from a signal handler of the loop

    def request_stop(self) -> None:
        """Drain and leave. Asking again changes nothing."""
        self._lifespans.give_up_entering()
        self._stop.set()

    def request_cut(self) -> None:
        """Drain and leave, but cancel what runs at once."""
        self.request_stop()
        self._cut.set()

    def look_at_board(self) -> None:
        """See what the master wants of this worker now."""
        self._directives.look()
        self._isolation.look()

    @property
    def has_running_handlers(self) -> bool:
        """Whether a handler runs. One that still does after `run` is at work until the process ends.

        The connections are left open then, for the kernel to close: when the broker sees their end it redelivers.
        """
        return any(runner.running for runner in self.runners)

    @property
    def drain_deadline(self) -> float | None:
        """The loop time until which leaving may take; None before the drain, 0.0 when it is cut short."""
        return 0.0 if self._cut.is_set() else self._deadline

    @property
    def was_connected(self) -> bool:
        """Whether there has been a connection to the broker."""
        return self._link.was_up

    # ---- what handlers may ask and do, see context.WorkerControls

    @property
    def stats(self) -> WorkerStats:
        """What this process did since its start, and what it does."""
        words = self._slot.words
        counts = {word: words[word] - self._counted_before[word] for word in _COUNTED}
        return WorkerStats(
            messages_processed=counts[Word.ACKED],
            messages_failed=sum(counts[word] for word in _FAILED),
            active_workers=sum(runner.running for runner in self.runners),
            queued_tasks=sum(runner.waiting for runner in self.runners),
        )

    def pause(self, queue: str) -> None:
        """Stop consuming a queue until `resume`. Raises KeyError when no handler here consumes it."""
        self._on_loop(self._consumer(queue).pause)

    def resume(self, queue: str) -> None:
        """Consume a queue again. Raises KeyError when no handler here consumes it."""
        self._on_loop(self._consumer(queue).resume)

    def _on_loop(self, turn: Callable[[str], None]) -> None:
        """Pause or resume a consumer, now or, for a handler in a thread, as soon as the loop turns."""
        if _get_running_loop() is self._loop:
            turn(_ASKED)
        else:
            self._loop.call_soon_threadsafe(turn, _ASKED)

    def _consumer(self, queue: str) -> Consumer:
        return {consumer.queue.name: consumer for consumer in self.consumers}[queue]

    # ---- start, serve

    async def run_or_give_up(self) -> ExitCode:
        """Do as `run` does, but leave a lifespan behind that is to be entered no longer and cannot be cancelled."""
        running = self._loop.create_task(self.run())
        sticking = self._loop.create_task(self._lifespans.has_stuck.wait())
        try:
            await asyncio.wait((running, sticking), return_when=asyncio.FIRST_COMPLETED)
            return running.result() if running.done() else self._not_started(self._lifespans.not_entered)
        finally:
            running.cancel()
            sticking.cancel()

    async def run(self) -> ExitCode:
        """Serve until asked to stop, until a burst is over, or until the first start has failed."""
        self._beat()
        try:
            await self._lifespans.enter(self._settings.boot_timeout_s)
        except AppLoadError as error:
            return self._not_started(error)
        self._furnish()
        self._move(WorkerState.CONNECTING)
        carrying = self._start_duties(self.pool.run(), self.publisher.run())
        consuming = self._start_duties(
            *(consumer.run() for consumer in self.consumers), Reconciler(self._link, self.consumers).run()
        )
        deadline = 0.0
        try:
            has_started = await self._start()
            if has_started:
                await self._serve()
            deadline = self._deadline = self._loop.time() + self._settings.drain_timeout_s
            self._move(WorkerState.DRAINING)
            await end(consuming)
            drain = Drain(
                self.consumers,
                self.runners,
                self._isolation,
                self.publisher,
                self._cut,
                deadline,
                waits_for_stuck=not self._is_stuck,
            )
            has_finished = await drain.run()
            self._move(WorkerState.STOPPED)
            if self._is_broken:
                return ExitCode.RUNTIME
            if not has_started:
                return ExitCode.BROKER
            return ExitCode.OK if has_finished else ExitCode.DRAIN_TIMEOUT
        finally:
            await end((*consuming, *carrying))
            await asyncio.gather(*(consumer.abandon() for consumer in self.consumers))
            closing = self._loop.create_task(self.cpu.close(deadline))
            await self._lifespans.leave(deadline)
            await closing
            self._threads.close()
            await self.publisher.close()
            if not self.has_running_handlers:
                await self.pool.close()

    def _furnish(self) -> None:
        """Make a runner and a consumer for each handler."""
        budget = ByteBudget(self._settings.prefetch_budget_bytes)
        process = ProcessScope(
            slot=self._slot,
            loop=self._loop,
            limiter=self._limiter,
            isolation=self._isolation,
            threads=self._threads,
            rng=self._rng,
            on_broken=self._on_broken,
            on_stuck=self._recycle_if_lost,
            resources=WorkerResources(self.pool, self.publisher, self),
            execute_in_process=self.cpu.executing,
            quarantine_after=self._settings.quarantine_after,
            decode_budget=DecodeBudget(budget),
        )
        declared = DeclaredQueues(self._declared)
        faulty_queues = FaultyQueues()
        opening = asyncio.Semaphore(_OPEN_AT_ONCE)
        for index, handler in enumerate(self._handlers):
            repair = partial(topology.repair, self._link, handler.queue, handler.retry_steps_ms)
            runner = HandlerRunner(
                index,
                handler,
                process,
                repair,
                self._lifespans.state_of(handler),
                partial(topology.declare_quarantine, self._link, handler.queue)
                if handler.queue.declare == "ensure"
                else None,
            )
            consumer = Consumer(
                self._link,
                handler.queue,
                handler.prefetch,
                runner.admit,
                self._look_around,
                self._rng,
                on_paused=runner.return_waiting,
                retry_steps_ms=handler.retry_steps_ms,
                budget=budget,
                growth=expected_growth(handler.decode),
                opening=opening,
                level_of=self._level_of,
                declared=declared,
                faulty_queues=faulty_queues,
            )
            if self._is_unproven:
                consumer.pause(UNPROVEN)
            runner.guard(consumer.pause, consumer.resume, consumer.limit_prefetch)
            self.runners.append(runner)
            self.consumers.append(consumer)
        self.look_at_board()  # before anything is consumed

    def _start_duties(self, *duties: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """StartDeadline what runs as long as the service does; one that ends before is a bug of ours."""
        tasks = [self._loop.create_task(duty) for duty in duties]
        for task in tasks:
            task.add_done_callback(self._on_duty_ended)
        return tasks

    def _on_duty_ended(self, duty: asyncio.Task[None]) -> None:
        if not duty.cancelled():
            self._on_broken(duty.exception())
        elif self.state not in (WorkerState.DRAINING, WorkerState.STOPPED):
            self._on_broken(None)

    def _not_started(self, error: AppLoadError) -> ExitCode:
        self._move(WorkerState.STOPPED)
        if self._stop.is_set():
            return ExitCode.OK
        self.failure = error
        return ExitCode.APP_LOAD

    def _on_broken(self, error: BaseException | None) -> None:
        """Drain and end the process, for it has a bug of ours: the master starts a new one."""
        log.error("worker %d is broken and ends", self._slot.number, exc_info=error)
        self._is_broken = True
        self._stop.set()

    def _recycle_if_lost(self) -> None:
        """Have the process replaced when too many places are lost to handlers that do not stop."""
        lost = next((runner for runner in self.runners if runner.is_lost_to_stuck), None)
        if lost is None or self._is_stuck or self._stop.is_set():
            return
        log.error(
            "worker %d is to be replaced: %d of %d places for handler %s are lost to handlers that are stuck",
            self._slot.number,
            lost.stuck,
            lost.handler.concurrency,
            lost.handler.name,
        )
        self._is_stuck = True
        if self._settings.burst:  # nobody is replaced then; a worker that leaves with an error is started again
            self._is_broken = True
            self._stop.set()
        else:
            self._lifetime.wish(Wish.STUCK)

    async def _start(self) -> bool:
        """Wait until all queues are consumed; False when this is the first start and it has failed."""
        start = StartDeadline(self._settings.connect_wait_s, REPLY_DEADLINE_S, self._loop.time())
        self.pool.expect_until(start.gives_up_at if self._must_start() else None)
        while self.state is not WorkerState.READY and not self._stop.is_set():
            now = self._loop.time()
            has_failed = start.look(
                was_connected=self._link.was_up,
                is_connected=self._link.live is not None,
                consumed=sum(consumer.is_as_wanted for consumer in self.consumers),
                unanswered=sum(
                    consumer.last_error is None and not consumer.is_as_wanted for consumer in self.consumers
                ),
                now=now,
            )
            if self._must_start():
                self.failure = self._fatal_error(has_failed)
                if self.failure is not None:
                    return False
            if start.has_to_tell(now):
                self._tell_progress()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(start.wakes_at(now, BEAT_EVERY_S)):
                    await first_of(self._changed.wait(), self._stop.wait())
        self.pool.expect_until(None)
        return True

    def _tell_progress(self) -> None:
        """Say how far a start is that takes its time; of workers that start together, one does."""
        if self._link.live is None:
            return
        number, total = self._slot.number, len(self.consumers)
        done = sum(consumer.is_as_wanted for consumer in self.consumers)
        level = logging.DEBUG if number > 1 and self._must_start() else logging.INFO
        facts = {"worker": number, "queues": total, "consumed": done}
        log.log(level, "worker %d: %d of %d queues declared and consumed", number, done, total, extra=facts)

    def _level_of(self, error: BrokerError) -> int:
        """Return the level of the line that tells of `error`.

        What ends a first start is told at its end. What is wrong with a broker, one worker tells for all.
        """
        has_other_brokers = len(self._settings.brokers.urls) > 1 and not isinstance(error, TopologyRefused)
        ends_the_start = error.permanent and not has_other_brokers
        is_told_otherwise = ends_the_start or self._slot.number > 1
        return logging.DEBUG if self._must_start() and is_told_otherwise else logging.WARNING

    def _fatal_error(self, is_time_up: bool) -> BrokerError | None:
        """Return why a first start cannot succeed: what only a human can change, or what was not there in time."""
        errors = [consumer.last_error for consumer in self.consumers if consumer.last_error is not None]
        connection = self._link.live
        if self._link.last_error is not None and connection is None:
            errors.append(self._link.last_error)
        for error in errors:
            if error.permanent:
                return error
        if not is_time_up:
            return None
        if connection is None:
            return errors[-1] if errors else ConnectionLost("no answer")
        missing = [consumer for consumer in self.consumers if not consumer.is_as_wanted]
        if not missing:
            return None
        first = next((consumer for consumer in missing if consumer.last_error is not None), missing[0])
        why = first.last_error or f"queue '{first.queue.name}' is still being declared"
        return ChannelLost(
            f"connected to {connection.url}, but {len(missing)} of {len(self.consumers)} queues are not consumed: {why}"
        )

    async def _serve(self) -> None:
        if self._settings.burst:
            await first_of(until_empty(self._link, self.consumers, self.runners), self._stop.wait())
            self._slot.words[Word.IS_BURST_OVER] = not self._stop.is_set()
        else:
            await self._stop.wait()

    # ---- what the board shows

    def _beat(self) -> None:
        """Promise the next heartbeat. Runs on the loop itself: a thread would still answer for a blocked loop."""
        self._loop.call_later(BEAT_EVERY_S, self._beat)  # first: no fault of what follows is to look like a hang
        timeout_ns = int(self._settings.heartbeat_timeout_s * _NS_PER_S)
        self._slot.beat(time.monotonic_ns() + timeout_ns)
        self._lifetime.beat()
        self.look_at_board()  # a signal that came before its handler was there costs a second
        if self._slot.look(latest_deadline_ns(time.monotonic_ns(), *self._timeouts_s)) is not None:
            ring()  # some code has damaged it: the master looks, too, and replaces this process

    def _look_around(self) -> None:
        """Show how many of the queues are consumed now; one that is paused is as it shall be, too."""
        self._changed.set()
        if self.state is WorkerState.DRAINING or self.state is WorkerState.STOPPED:
            return
        if self._is_unproven and all(consumer.is_as_wanted for consumer in self.consumers):
            self._consume_all()
        as_wanted = sum(consumer.is_as_wanted for consumer in self.consumers)
        if as_wanted == len(self.consumers):
            self._tell_ready()
            self._slot.words[Word.EVER_READY] = 1  # before the state, with which the master is rung
            self._move(WorkerState.READY)
        elif as_wanted:
            self._move(WorkerState.DEGRADED)
        else:
            self._move(WorkerState.CONNECTING)

    def _consume_all(self) -> None:
        """Begin to consume on trial: had one queue been refused, code that cannot start would have served another."""
        self._is_unproven = False
        for consumer in self.consumers:
            consumer.resume(UNPROVEN)

    def _move(self, state: WorkerState) -> None:
        if state is self.state:
            return
        former, self.state = self.state, next_worker_state(self.state, state)
        self._slot.write_state(state)
        ring()
        self._show(state)
        facts = {"worker": self._slot.number, "state": state.name.lower()}
        log.debug("worker %d %s -> %s", self._slot.number, former.name, state.name, extra=facts)

    def _tell_ready(self) -> None:
        """Say that all queues are consumed. Call before the master can know, so that its own line follows."""
        number, connection = self._slot.number, self._link.live
        if self.state is WorkerState.READY or connection is None:
            return
        facts = {"worker": number, "server": connection.server, "broker": str(connection.url)}
        if self._has_been_ready:
            log.info("worker %d consumes all its queues again", number, extra=facts)
        else:
            log.info("worker %d is ready: %s at %s", number, connection.server, connection.url.place, extra=facts)
            self._warn_of_limits(connection.server)
        self._has_been_ready = True

    def _warn_of_limits(self, server: str) -> None:
        """Warn of queues that may drop what is given back. One worker does it for all, and for all that follow them."""
        if self._slot.number > 1 or self._slot.ever_ready:
            return
        for handler in self._handlers:
            doubt = handler.queue.doubt_of_limit(server)
            if doubt is not None:
                log.warning(doubt)


def _places_for(kind: HandlerKind, handlers: Sequence[Handler], most: int) -> int:
    """Return how many threads, or processes, handlers of one kind may use: a place for each that may run."""
    wanted = sum(handler.concurrency for handler in handlers if handler.kind is kind)
    return max(1, min(wanted, most))


def describe(handlers: Sequence[Handler]) -> str:
    """Return what a worker consumes, one handler a line."""
    width = max((len(handler.queue.name) for handler in handlers), default=0)
    return "\n".join(
        f"consuming   {handler.queue.name:<{width}}  {handler.name}()  concurrency {handler.concurrency}, "
        f"prefetch {handler.prefetch}, timeout {format_duration(handler.timeout_s)}"
        for handler in handlers
    )
