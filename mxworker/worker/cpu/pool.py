r"""The processes in which `cpu=True` handlers run: bounded, reused, and killed when their time is up.

    STARTING -> idle <-> executing one delivery
        \          \          \-> killed, because its delivery was cancelled
         \          \-----------> dead, by a fault of its own
          \-> start failed: a pause before the next start

Every process serves every `cpu=True` handler of the worker. When a process dies, only the delivery that it executes is
lost. When an execution is cancelled, the pool kills its process, and waits for the process to end before the execution
returns and its place is free: a retry never runs beside it. A handler's time begins when it has a process: a start may
take longer than that time, and costs no attempt. A start belongs to the pool, and goes on when the delivery that waited
for it is cancelled.

This module knows nothing about deadlines, channels and the meaning of settlements.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import count

from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.compilation import Handler
from mxworker.api.delivery import Delivery
from mxworker.api.receipts import Confirmed
from mxworker.api.settlement import Settlement
from mxworker.backoff import CPU_START
from mxworker.errors import PublishError, PublishOverflow
from mxworker.system.log import count_dropped
from mxworker.system.log_events import log_event
from mxworker.worker.cpu.process import CpuProcess, end_of
from mxworker.worker.cpu.protocol import (
    PUBLISH,
    READY,
    SETTLEMENT,
    Frame,
    MemberSettings,
    Outgoing,
    ProtocolBroken,
    fault_of,
    lines_dropped_of,
    outgoing,
    published,
    request,
    settlement_of,
)
from mxworker.worker.handling.execution import Execute
from mxworker.worker.handling.report import Report

log = logging.getLogger(__name__)

_START_PATIENCE_S = 60.0  # as long as a worker may take to boot by default
_LEAVE_GRACE_S = 0.5  # after the drain's deadline, as for the worker's own lifespans

Suspended = Callable[[Delivery], AbstractContextManager[object]]


class Lost(Exception):
    """A delivery was not executed to its end. The text has the reason."""


class Unread(Lost):
    """The process died before it had read the whole request: the kernel resets a socket with unread data (unix(7))."""


class CpuPool:
    """At most `size` processes, which are started when they are needed. Belongs to one event loop."""

    def __init__(
        self, settings: MemberSettings, size: int, rng: random.Random, publisher: Publisher | None = None
    ) -> None:
        """Start no process yet. `publisher` publishes the messages of handlers."""
        self._settings = settings
        self._size = size
        self._rng = rng
        self._publisher = publisher
        self._loop = asyncio.get_running_loop()
        self._members: set[CpuProcess] = set()  # the processes that are ready and have not ended
        self._idle: list[CpuProcess] = []  # the most recently used process, whose caches are warm, is the last
        self._starting: set[asyncio.Task[None]] = set()
        self._numbers: set[int] = set()  # of the processes that have not ended, ready or not
        self._waiters: deque[asyncio.Future[CpuProcess]] = deque()  # at most one for each delivery that runs
        self._failed_starts = 0
        self._is_closed = False

    @property
    def members(self) -> list[CpuProcess]:
        """The processes that are ready. May be read from any thread."""
        return list(self._members)

    @property
    def pids(self) -> list[int]:
        """The process ids of the processes that are ready."""
        return sorted(member.pid for member in self._members)

    # ---- executing

    def executing(self, handler: Handler, report: Report, suspended: Suspended = nullcontext) -> Execute:
        """Return the coroutine function that takes a delivery of `handler` to its settlement; see `execution`.

        `suspended` is entered while a delivery waits for a process: that time does not count for its handler.
        """
        queue = handler.queue.name

        async def execute(delivery: Delivery) -> Settlement:
            try:
                return await self._executed(request(queue, delivery), partial(suspended, delivery))
            except Lost as loss:
                return report.lost(str(loss))

        return execute

    async def _executed(self, asked: Frame, suspended: Callable[[], AbstractContextManager[object]]) -> Settlement:
        """Have a process execute a delivery. Raises Lost."""
        try:
            return await self._executed_by(await self._taken(suspended), asked)
        except Unread:  # the process died while idle, unnoticed: the delivery did not cause it
            return await self._executed_by(await self._taken(suspended), asked)

    async def _executed_by(self, member: CpuProcess, asked: Frame) -> Settlement:
        """Have `member` execute a delivery. Raises Lost when the process ended. Kills the process when cancelled."""
        try:
            settlement = await self._answer(member, asked)
        except ProtocolBroken as error:
            await member.kill()
            raise Lost(f"its process wrote into the pipe to its worker, and was killed: {error}") from error
        except OSError as error:
            raise Unread(end_of(await member.kill())) from error
        except EOFError as error:
            raise Lost(end_of(await member.kill())) from error
        except BaseException:  # cancelled, or the publisher failed at a message of the handler
            await member.kill()
            raise
        self._hand_on(member)
        return settlement

    async def _answer(self, member: CpuProcess, asked: Frame) -> Settlement:
        """Send the request, publish the handler's messages, and return its settlement.

        Raises OSError when the process had ended before, EOFError when it ends now, and ProtocolBroken.
        """
        await member.pipe.send(asked)
        frame = await member.pipe.receive()
        while frame is not None and frame.kind == PUBLISH:
            try:
                await member.pipe.send(published(await self._publish(outgoing(frame))))
                frame = await member.pipe.receive()
            except OSError as error:
                raise EOFError("the process has ended") from error
        if frame is None:
            raise EOFError("the process has ended")
        if frame.kind != SETTLEMENT:
            raise ProtocolBroken(f"'{frame.kind}' is no answer")
        if lines := lines_dropped_of(frame):
            count_dropped(lines)
        return settlement_of(frame)

    async def _publish(self, message: Outgoing) -> Confirmed | PublishError:
        if self._publisher is None:
            return PublishOverflow("not sent: there is no publisher")
        try:
            return await self._publisher.publish(
                message.content,
                routing_key=message.routing_key,
                exchange=message.exchange,
                mandatory=message.mandatory,
                timeout_s=message.timeout_s,
            )
        except PublishError as error:
            return error

    # ---- idle processes and waiting deliveries

    async def _taken(self, suspended: Callable[[], AbstractContextManager[object]]) -> CpuProcess:
        """Wait for a free process; the caller gives it back with `_hand_on`, or kills it. Raises Lost."""
        for member in reversed(self._idle):
            if member.is_alive:  # otherwise the loop will reap it soon
                self._idle.remove(member)
                return member
        waiter: asyncio.Future[CpuProcess] = self._loop.create_future()
        self._waiters.append(waiter)
        self._start_enough()
        try:
            with suspended():
                return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_on(waiter.result())
            raise

    def _hand_on(self, member: CpuProcess) -> None:
        """Give a free process to the delivery that has waited longest, or keep it."""
        if member not in self._members:  # the process has ended since it answered
            member.pipe.close()
        elif (waiter := self._next_waiter()) is not None:
            waiter.set_result(member)
        else:
            self._idle.append(member)

    def _next_waiter(self) -> asyncio.Future[CpuProcess] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    # ---- starting

    def _start_enough(self) -> None:
        """Start a process for each delivery that waits, up to the size of the pool."""
        waiting = sum(not waiter.done() for waiter in self._waiters)
        room = self._size - len(self._members) - len(self._starting)
        for _ in range(0 if self._is_closed else min(waiting - len(self._starting), room)):
            task = self._loop.create_task(self._start())
            self._starting.add(task)
            task.add_done_callback(self._on_start_over)

    def _on_start_over(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        self._start_enough()

    async def _start(self) -> None:
        """Start a process and hand it on. When that fails, the delivery that has waited longest gets the error."""
        if self._failed_starts:  # waits at least half of the backoff, so that no start follows a failed one at once
            await asyncio.sleep(CPU_START.ceiling_s(self._failed_starts - 1) * self._rng.uniform(0.5, 1.0))
        began_at = self._loop.time()
        try:
            member = await self._started()
        except Lost as loss:
            self._failed_starts += 1
            facts = log_event("cpu_process_start_failed", worker=self._settings.worker, error=str(loss))
            log.error("a process for cpu handlers of worker %d cannot start: %s", facts["worker"], loss, extra=facts)
            waiter = self._next_waiter()
            if waiter is not None:
                waiter.set_exception(Lost(f"no process could start for it: {' '.join(str(loss).split())}"))
            return
        self._failed_starts = 0
        self._members.add(member)
        member.ended.add_done_callback(lambda _: self._on_ended(member))
        log.info(
            "process %d for cpu handlers of worker %d is ready after %.2f s; there are %d of at most %d",
            member.pid,
            self._settings.worker,
            self._loop.time() - began_at,
            len(self._members),
            self._size,
            extra=log_event("cpu_process_ready", worker=self._settings.worker, member_pid=member.pid),
        )
        self._hand_on(member)

    async def _started(self) -> CpuProcess:
        """Start a process, and return it when it is ready. Raises Lost."""
        number = next(number for number in count() if number not in self._numbers)
        try:
            member = CpuProcess(replace(self._settings, number=number))
        except OSError as error:
            raise Lost(str(error)) from error
        self._numbers.add(number)
        member.ended.add_done_callback(lambda _: self._numbers.discard(number))
        try:
            async with asyncio.timeout(_START_PATIENCE_S):
                frame = await member.pipe.receive()
            fault = None if frame is None or frame.kind == READY else fault_of(frame)
        except TimeoutError:
            await member.kill()
            raise Lost(f"it was not ready after {_START_PATIENCE_S:g} s") from None
        except (OSError, EOFError) as error:
            raise Lost(end_of(await member.kill())) from error
        except ProtocolBroken as error:
            await member.kill()
            raise Lost(f"it wrote into the pipe to its worker, and was killed: {error}") from error
        except asyncio.CancelledError:
            await member.kill()
            raise
        if frame is not None and frame.kind == READY:
            return member
        code = await member.kill()
        raise Lost(end_of(code) if fault is None else fault)

    def _on_ended(self, member: CpuProcess) -> None:
        self._members.discard(member)
        if member in self._idle:
            self._idle.remove(member)
            member.pipe.close()
            if not self._is_closed:
                how = end_of(member.ended.result())
                facts = log_event("cpu_process_ended", member_pid=member.pid, how=how)
                log.warning("process %d for cpu handlers ended while idle: %s", member.pid, how, extra=facts)
        self._start_enough()

    # ---- the end

    async def close(self, deadline: float) -> None:
        """End all processes, and kill those that have not left half a second after the loop time `deadline`.

        Call it when nothing is executed any more.
        """
        self._is_closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        members = list(self._members)
        for member in members:
            member.pipe.end_sending()
        leave_until = max(deadline, self._loop.time()) + _LEAVE_GRACE_S
        with suppress(TimeoutError):
            async with asyncio.timeout_at(leave_until):
                await asyncio.gather(*(asyncio.shield(member.ended) for member in members))
        for member in members:
            if not member.ended.done():
                text = "process %d for cpu handlers has not left by the deadline of the drain: killed"
                log.error(text, member.pid, extra=log_event("cpu_process_killed", member_pid=member.pid))
        await asyncio.gather(*(member.kill() for member in members))
