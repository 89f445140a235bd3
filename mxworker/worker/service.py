"""The life of a worker: start, serve, drain.

Its duties, in order:
1. keep the heartbeat: every second of its loop it promises the master the next one;
2. connect and consume every queue, and say on the board how far that is;
3. on request, or when a burst is over, drain: stop the deliveries, finish what runs, settle, leave.

Must not know: how it was forked, other workers, the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from mxworker.amqp import topology
from mxworker.amqp.consumer import Consumer
from mxworker.amqp.pool import Pool
from mxworker.amqp.publisher import Publisher
from mxworker.amqp.reconcile import Reconciler
from mxworker.board import BoardSlot, Word
from mxworker.config import Consumption, format_duration
from mxworker.context import Equipment
from mxworker.errors import BrokerError, ConnectionLost, ExitCode
from mxworker.handlers import Handler
from mxworker.lifecycle import WorkerState, next_worker_state
from mxworker.message import Encoder
from mxworker.worker.dispatcher import Dispatcher
from mxworker.worker.drain import Drain
from mxworker.worker.tasks import end, first_of

log = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0
BURST_LOOK_EVERY_S = 0.25
_NS_PER_S = 1_000_000_000


class Service:
    """One worker's service. Made inside a running loop; `run` is called once."""

    def __init__(
        self,
        settings: Consumption,
        handlers: Sequence[Handler],
        slot: BoardSlot,
        is_first_start: Callable[[], bool],
        show: Callable[[WorkerState], None],
    ) -> None:
        """`is_first_start` says whether no worker was ever ready; `show` is told every state, for the process title."""
        loop = asyncio.get_running_loop()
        self.state = WorkerState.BOOTING
        self.failure: BrokerError | None = None
        """Why `run` returned ExitCode.BROKER."""
        rng = random.Random(os.urandom(16))  # noqa: S311  not for secrets; seeded here, after the fork
        process_name = f"mxworker {settings.app} worker {slot.number}"
        self.pool = Pool(settings.pool, settings.brokers, process_name, self._look_around, rng)
        self._link = self.pool.consume_link
        encoder = Encoder(max_body_bytes=settings.publisher.max_body_bytes)
        self.publisher = Publisher(self.pool.publish_link, settings.publisher, encoder, rng)
        equipment = Equipment(self.pool, self.publisher)
        self.dispatchers = [
            Dispatcher(index, handler, slot, loop, self._on_broken, equipment) for index, handler in enumerate(handlers)
        ]
        self._settings = settings
        self._slot = slot
        self._is_first_start = is_first_start
        self._show = show
        self._loop = loop
        self._consumers = [
            Consumer(
                self._link,
                dispatcher.handler.queue,
                dispatcher.handler.prefetch,
                dispatcher.admit,
                self._look_around,
                rng,
            )
            for dispatcher in self.dispatchers
        ]
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._is_broken = False
        for index, handler in enumerate(handlers):
            slot.name_handler(index, handler.name)

    # ---- requests from outside, from a signal handler of the loop

    def request_stop(self) -> None:
        """Drain and leave. Asking again changes nothing."""
        self._stop.set()

    def request_cut(self) -> None:
        """Drain and leave, but cancel what runs at once."""
        self._stop.set()
        self._cut.set()

    # ---- start, serve

    async def run(self) -> ExitCode:
        """Serve until asked to stop, until a burst is over, or until the first start has failed."""
        self._beat()
        self._move(WorkerState.CONNECTING)
        carrying = self._start_duties(self.pool.run(), self.publisher.run())
        consuming = self._start_duties(
            *(consumer.run() for consumer in self._consumers), Reconciler(self._link, self._consumers).run()
        )
        try:
            has_started = await self._start()
            if has_started:
                await self._serve()
            deadline = self._loop.time() + self._settings.drain_timeout_s
            self._move(WorkerState.DRAINING)
            await end(consuming)
            has_finished = await Drain(self._consumers, self.dispatchers, self.publisher, self._cut, deadline).run()
            self._move(WorkerState.STOPPED)
            if self._is_broken:
                return ExitCode.RUNTIME
            if not has_started:
                return ExitCode.BROKER
            return ExitCode.OK if has_finished else ExitCode.DRAIN_TIMEOUT
        finally:
            await end((*consuming, *carrying))
            await asyncio.gather(*(consumer.abandon() for consumer in self._consumers))
            await self.publisher.close()
            await self.pool.close()

    def _start_duties(self, *duties: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Start what runs as long as the service does; one that ends before is a bug of ours."""
        tasks = [self._loop.create_task(duty) for duty in duties]
        for task in tasks:
            task.add_done_callback(self._on_duty_ended)
        return tasks

    def _on_duty_ended(self, duty: asyncio.Task[None]) -> None:
        if not duty.cancelled():
            self._on_broken(duty.exception())
        elif self.state not in (WorkerState.DRAINING, WorkerState.STOPPED):
            self._on_broken(None)

    def _on_broken(self, error: BaseException | None) -> None:
        """Drain and end the process, for it has a bug of ours: the master starts a new one."""
        log.error("worker %d is broken and ends", self._slot.number, exc_info=error)
        self._is_broken = True
        self._stop.set()

    async def _start(self) -> bool:
        """Wait until all queues are consumed; False when this is the first start and it has failed."""
        give_up_at = self._loop.time() + self._settings.connect_wait_s
        while self.state is not WorkerState.READY and not self._stop.is_set():
            if self._is_first_start():
                self.failure = self._fatal_error(self._loop.time() >= give_up_at)
                if self.failure is not None:
                    return False
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(give_up_at, self._loop.time() + BEAT_EVERY_S)):
                    await first_of(self._changed.wait(), self._stop.wait())
        return True

    def _fatal_error(self, is_time_up: bool) -> BrokerError | None:
        """Return why a first start cannot succeed: what only a human can change, or the broker is not there in time."""
        errors = [consumer.last_error for consumer in self._consumers if consumer.last_error is not None]
        if self._link.last_error is not None and self._link.live is None:
            errors.append(self._link.last_error)
        for error in errors:
            if error.permanent:
                return error
        if not is_time_up:
            return None
        return errors[-1] if errors else ConnectionLost("no answer")

    async def _serve(self) -> None:
        if self._settings.burst:
            await first_of(self._until_empty(), self._stop.wait())
        else:
            await self._stop.wait()

    async def _until_empty(self) -> None:
        """Return when two looks in a row found nothing ready in the queues and nothing held here."""
        empty_looks = 0
        while empty_looks < 2:
            await asyncio.sleep(BURST_LOOK_EVERY_S)
            empty_looks = empty_looks + 1 if await self._is_empty() else 0

    async def _is_empty(self) -> bool:
        connection = self._link.live
        if connection is None or not all(dispatcher.is_idle for dispatcher in self.dispatchers):
            return False
        try:
            channel = await connection.channel()
            try:
                depths = [await topology.depth(channel, consumer.queue.name) for consumer in self._consumers]
            finally:
                await connection.close_channel(channel)
        except BrokerError:
            return False
        # A quorum queue without a leader answers 0 and 0: it has at least our consumer when it can be believed.
        are_empty = all(ready == 0 and consumers > 0 for ready, consumers in depths)
        return are_empty and all(dispatcher.is_idle for dispatcher in self.dispatchers)

    # ---- what the board shows

    def _beat(self) -> None:
        """Promise the next heartbeat. Runs on the loop itself: a thread would still answer for a blocked loop."""
        timeout_ns = int(self._settings.heartbeat_timeout_s * _NS_PER_S)
        self._slot.beat(time.monotonic_ns() + timeout_ns)
        self._loop.call_later(BEAT_EVERY_S, self._beat)

    def _look_around(self) -> None:
        """Show how many of the queues are consumed now."""
        self._changed.set()
        if self.state is WorkerState.DRAINING or self.state is WorkerState.STOPPED:
            return
        consuming = sum(consumer.is_consuming for consumer in self._consumers)
        if consuming == len(self._consumers):
            self._move(WorkerState.READY)
            self._slot.words[Word.EVER_READY] = 1
        elif consuming:
            self._move(WorkerState.DEGRADED)
        else:
            self._move(WorkerState.CONNECTING)

    def _move(self, state: WorkerState) -> None:
        if state is self.state:
            return
        former, self.state = self.state, next_worker_state(self.state, state)
        self._slot.write_state(state)
        self._show(state)
        log.info("worker %d %s -> %s", self._slot.number, former.name, state.name)


def describe(handlers: Sequence[Handler]) -> str:
    """Return what a worker consumes, one handler a line."""
    width = max((len(handler.queue.name) for handler in handlers), default=0)
    return "\n".join(
        f"consuming   {handler.queue.name:<{width}}  {handler.name}()  concurrency {handler.concurrency}, "
        f"prefetch {handler.prefetch}, timeout {format_duration(handler.timeout_s)}"
        for handler in handlers
    )
