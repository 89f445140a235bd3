"""A worker's service in the event loop of a test, connected to a broker in memory.

It is `worker.assembly` as in production, with three things of its own: the wire to the broker, the clock of handlers,
and a watch that sees each settlement. There is no master: nobody reads the board, and signals are left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.declaring import Declaring
from mxworker.api.attempts import attempt_of
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.delivery import Delivery
from mxworker.api.handlers import Handlers, compile_handlers
from mxworker.api.settlement import Settlement
from mxworker.board.lifecycle import WorkerState
from mxworker.board.page import Board
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.config.process import Consumption
from mxworker.errors import ExitCode
from mxworker.testing.calls import Call, Calls
from mxworker.testing.memory_broker import MemoryBroker
from mxworker.testing.results import Result, error_of
from mxworker.testing.standing_clock import StandingClock
from mxworker.testing.waiting import Changes
from mxworker.worker.assembly import assemble
from mxworker.worker.handling.handler_runner import HandlerRunner
from mxworker.worker.handling.work import Watch

_URL = BrokerUrl("in-memory")
_SHOWN_FRAMES = 4


class InProcessService:
    """One service. Call `start`, and `stop` at the end."""

    def __init__(self, handlers: Handlers, timeout_s: float, takes_all: bool) -> None:
        """Compile the handlers. `timeout_s` is for the start and for the end. Call inside a running loop.

        Raises AppLoadError.
        """
        self.handlers = {handler.queue.name: _in_this_process(handler) for handler in compile_handlers(handlers)}
        self.clock = StandingClock()
        self.changes = Changes()
        self.calls = Calls()
        self.broker = MemoryBroker(self.clock.queues, takes_all, self.changes.note)
        self.broker.name_queues(self.handlers.values())
        queues = [(handler.queue, handler.retry_steps_ms) for handler in self.handlers.values()]
        queues += [(queue, ()) for queue in handlers.declared_queues]
        self._left_to_operator = [(queue, steps) for queue, steps in queues if queue.declare != "ensure"]
        settings = Consumption(
            app="test",
            brokers=Brokers((_URL,)),
            drain_timeout_s=timeout_s,
            boot_timeout_s=timeout_s,
            quarantine_after=0,
        )
        self.service = assemble(
            settings,
            tuple(self.handlers.values()),
            Board(1, may_seal=False).slot(1),
            must_start=lambda: True,
            show=lambda _: self.changes.note(),
            serializers=handlers.serializers,
            declared=handlers.declared_queues,
            wire=self.broker.connect,
            clock=self.clock,
            watch_for=self._watch_for,
        )
        self.task: asyncio.Task[ExitCode] | None = None

    async def declare(self, deadline: float) -> None:
        """Declare the queues that the code does not declare, as an operator would have, before the loop time given."""
        if not self._left_to_operator:
            return
        connection = await BrokerConnection.open(_URL, "operator", deadline, wire=self.broker.connect)
        try:
            async with Declaring(connection) as declaring:
                for queue, retry_steps_ms in self._left_to_operator:
                    await topology.ensure(declaring, replace(queue, declare="ensure"), retry_steps_ms)
        finally:
            await connection.close()

    def start(self) -> None:
        """Begin to run."""
        self.task = asyncio.get_running_loop().create_task(self.service.run_or_give_up())
        self.task.add_done_callback(lambda _: self.changes.note())

    def check(self) -> None:
        """Raise the reason when the service has ended by itself."""
        if self.task is None or not self.task.done():
            return
        code = self.task.result()
        failure = self.service.failure or self.service.parts.lifespans.end_error
        raise failure or RuntimeError(f"the worker has ended by itself: {code.name}; see its log")

    @property
    def is_ready(self) -> bool:
        """Whether all queues are consumed, or the service has ended."""
        return self.service.state is WorkerState.READY or (self.task is not None and self.task.done())

    def stop(self, at_once: bool) -> None:
        """Have it drain, or cancel its handlers `at_once`. Wait for the end of its task then, and call `close`."""
        if at_once:
            self.service.request_cut()
        else:
            self.service.request_stop()

    async def close(self) -> None:
        """End the task, and what the end of a process would end."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
        parts = self.service.parts
        parts.heartbeat.stop()
        await parts.pool.close()  # a service whose handlers still run leaves that to the kernel
        self.broker.stop()

    def _watch_for(self, handler: Handler) -> Watch:
        def note(delivery: Delivery, settlement: Settlement, _: float) -> None:
            attempt = attempt_of(delivery, handler.max_attempts)
            error = error_of(settlement)
            self.calls.note(Result(settlement, error, handler.queue.name, handler.name, attempt, delivery))
            self.changes.note()

        return note

    # ---- how things stand

    def is_idle(self, call: Call | None) -> bool:
        """Whether nothing happens any more before the clock is moved, apart from what other calls wait for.

        Without a call, nothing that any call waits for counts.
        """
        stats = self.service.parts.publisher.stats
        if stats.in_flight or stats.waiting:
            return False
        return all(self._is_idle(runner, call) for runner in self.service.runners)

    @property
    def only_runs_handlers(self) -> bool:
        """Whether all that happens is that handlers run."""
        runners = self.service.runners
        return all(self._held(runner) <= runner.in_flight + runner.waiting for runner in runners)

    def _held(self, runner: HandlerRunner) -> int:
        queue = self.broker.queues[runner.handler.queue.name]
        return queue.unacked + (queue.ready.count if queue.consumers else 0)

    def _is_idle(self, runner: HandlerRunner, call: Call | None) -> bool:
        name = runner.handler.queue.name
        queue = self.broker.queues[name]
        gathering = [(name, delivery.message_id) for delivery in runner.gathering]
        has_come = queue.unacked <= runner.in_flight + runner.waiting
        return has_come and self._held(runner) <= len(gathering) + self.calls.awaited_elsewhere(name, call, gathering)

    def only_gathers(self, call: Call) -> bool:
        """Whether all that a call waits for is in batches that are complete by their age alone."""
        gathering = {
            (runner.handler.queue.name, delivery.message_id)
            for runner in self.service.runners
            for delivery in runner.gathering
        }
        return set(call.pending) <= gathering and self.is_idle(None)

    def described(self) -> str:
        """Return what runs and what waits, for people."""
        parts = self.service.parts
        lines = [line for runner in parts.runners for line in _described(runner)]
        for consumer in parts.consumers:
            if consumer.pause_reasons:
                lines.append(f"queue {consumer.queue.name!r} is paused: {', '.join(sorted(consumer.pause_reasons))}")
            elif not consumer.is_consuming:
                why = f": {consumer.last_error}" if consumer.last_error is not None else ""
                lines.append(f"queue {consumer.queue.name!r} is not consumed{why}")
        stats = parts.publisher.stats
        if stats.in_flight or stats.waiting:
            lines.append(f"{stats.in_flight + stats.waiting} publishes without an outcome, {dict(stats.waiting_for)}")
        return "\n".join(f"  {line}" for line in lines) or f"  nothing runs; the worker is {self.service.state.name}"


def _described(runner: HandlerRunner) -> Sequence[str]:
    handler = runner.handler
    lines = []
    for work in runner.at_work():
        ids = ", ".join(str(delivery.shown_id) for delivery in work.deliveries[:3])
        where = " > ".join(work.stack[-_SHOWN_FRAMES:])
        lines.append(
            f"{handler.name}() still runs with message {ids} of queue {handler.queue.name!r}, at {where}; its timeout "
            f"is {handler.timeout_s:g} s by the worker's clock, which only moves with advance"
        )
    if waiting := runner.waiting:
        lines.append(f"{waiting} messages of queue {handler.queue.name!r} wait for {handler.name}()")
    return lines


def _in_this_process(handler: Handler) -> Handler:
    """Return a handler that runs here, and takes the same delays each time.

    With `cpu=True` it runs in a thread instead of another process.
    """
    kind = HandlerKind.THREAD if handler.kind is HandlerKind.PROCESS else handler.kind
    retry = None if handler.retry is None else replace(handler.retry, jitter=False)
    return replace(handler, kind=kind, retry=retry)
