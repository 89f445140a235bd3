"""`TestWorker`: a worker in the test's event loop, without sockets, processes and waiting.

Only the transport of the broker connection is replaced, where production has a socket. On one side of it is the whole
worker, as `worker.assembly` composes it: connecting, declaring, consuming, the compiled pipeline of each handler,
settlements, copies, the publisher with its confirms, lifespans and drain. On the other side are the parts of the
embedded broker, which the conformance suite compares with RabbitMQ. So bytes go in and bytes come out, and no step of
the pipeline has a second implementation. Replacing a part further in would be cheaper by some milliseconds for each
test. It would need an imitation of queues, retries by time to live and confirms, which are what handlers fail over.

Time stands still until a test moves it. Delays of retries, timeouts of handlers, ages of batches and pauses of circuit
breakers are on that one clock; the wait of a test for a fact is real, and always has a deadline.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, Unpack

from mxworker.api.handlers import Handlers
from mxworker.api.message import Encoder, MessageOptions
from mxworker.devbroker.message import Message as BrokerMessage
from mxworker.errors import ExitCode
from mxworker.testing.calls import Call
from mxworker.testing.in_process import InProcessService
from mxworker.testing.received import Received
from mxworker.testing.results import Expected, Result, judge
from mxworker.testing.waiting import StillWaiting

_ANYTHING: Any = object()
_SETTLE_S = 1.0  # after the deadlines of the start and the drain, which say more, and for lifespans


class TestWorker:
    """Runs handlers in a test. Use it as `async with TestWorker(handlers) as worker`.

    Each call waits until all that it led to is done, apart from what waits for the clock. A failure that no `expect`
    names is raised, with the handler's traceback; so is one of a message that a handler has published. `expect` takes
    classes of settlements and exceptions, one of which the end of a delivery must match.
    """

    __test__ = False  # it is no class of tests, although its name begins like one

    def __init__(self, handlers: Handlers, *, timeout: float = 5.0, strict_routing: bool = False) -> None:
        """`timeout` is the real time in seconds that a call may take.

        By default every publish finds a queue, since the services that consume it are not there. With `strict_routing`
        one that no queue of these handlers takes fails with Unroutable, as in production. A `cpu=True` handler runs in
        a thread.
        """
        self._handlers = handlers
        self._timeout = timeout
        self._takes_all = not strict_routing
        self._encoder = Encoder(None, handlers.serializers)
        self._in_process: InProcessService | None = None

    # ---- life

    async def __aenter__(self) -> Self:
        """Enter the lifespans, connect and consume. Raises AppLoadError, also for a lifespan that fails."""
        service = self._in_process = InProcessService(self._handlers, self._timeout, self._takes_all)
        try:
            with self._call("the start of the worker", None) as call:
                await service.declare(call.deadline)
                service.start()
                await service.changes.until(
                    lambda: service.is_ready, call.deadline + _SETTLE_S, lambda: self._why(call)
                )
            service.check()
        except BaseException:
            await self._end(service, at_once=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain, and leave the lifespans. Raises what fails in them, and a failure that no call has seen."""
        service = self._running
        await self._end(service, at_once=error is not None)
        if error is None:
            judge(service.calls.take_rest(), None)

    async def _end(self, service: InProcessService, at_once: bool) -> None:
        try:
            if service.task is not None:
                await self._stop(service, service.task, at_once)
        finally:
            await service.close()
            self._in_process = None

    async def _stop(self, service: InProcessService, task: asyncio.Task[ExitCode], at_once: bool) -> None:
        service.stop(at_once)
        with self._call("the end of the worker", None) as call:
            await service.changes.until(task.done, call.deadline + _SETTLE_S, lambda: self._why(call))
            if at_once:
                return
            if task.result() is ExitCode.DRAIN_TIMEOUT:
                raise StillWaiting(self._why(call))
            if service.service.parts.lifespans.end_error is not None:
                raise service.service.parts.lifespans.end_error

    # ---- deliveries

    async def deliver(
        self,
        queue: str,
        payload: Any,
        *,
        expect: Expected | None = None,
        advance: float | None = None,
        timeout: float | None = None,
        exchange: str = "",
        routing_key: str | None = None,
        **options: Unpack[MessageOptions],
    ) -> Result:
        """Deliver a message to the handler of `queue`, and return how its first execution ended.

        `payload` and `options` are as for a publish. With `advance`, the clock is moved by that many seconds when the
        handler waits, as for a test of its timeout. For a batch handler the clock is moved to the end of the batch's
        wait. `exchange` and `routing_key` are what the handler sees in the delivery.
        """
        route = exchange, queue if routing_key is None else routing_key
        (result,) = await self._deliver(queue, [payload], expect, advance, timeout, route, options)
        return result

    async def deliver_many(
        self,
        queue: str,
        payloads: Sequence[Any],
        *,
        expect: Expected | None = None,
        advance: float | None = None,
        timeout: float | None = None,
    ) -> list[Result]:
        """Deliver messages at once, as a batch handler gets them, and return how they ended, in the given order."""
        return await self._deliver(queue, payloads, expect, advance, timeout, ("", queue), {})

    async def advance(
        self,
        seconds: float,
        *,
        expect: Expected | None = None,
        timeout: float | None = None,
        hangs_after: float | None = None,
    ) -> list[Result]:
        """Move the clock, and return the ends of the deliveries that this led to, in their order.

        The clock stops at each instant at which something falls due, until all that this led to is done. A handler
        that another call waits for is not waited for here, so its timeout can be tested with `asyncio.create_task`.
        With `hangs_after`, a handler that runs longer than that, in seconds of real time, is left running, so that the
        clock reaches its timeout.
        """
        if seconds < 0:
            raise ValueError("a clock goes forward only")
        with self._call(f"advance({seconds:g})", timeout) as call:
            await asyncio.sleep(0)  # the tasks that the test has made begin their calls
            await self._until_idle(call)
            await self._move(call, self._running.clock.time() + seconds, hangs_after=hangs_after)
            results = self._running.calls.take_rest()
        judge(results, expect)
        return results

    async def settled(self, *, expect: Expected | None = None, timeout: float | None = None) -> list[Result]:
        """Wait until nothing happens any more, as after a publish of a lifespan's task, and return what ended."""
        with self._call("settled()", timeout) as call:
            await self._until_idle(call)
            results = self._running.calls.take_rest()
        judge(results, expect)
        return results

    async def _deliver(
        self,
        queue: str,
        payloads: Sequence[Any],
        expect: Expected | None,
        advance: float | None,
        timeout: float | None,
        route: tuple[str, str],
        options: MessageOptions,
    ) -> list[Result]:
        service = self._running
        if queue not in service.handlers:
            raise ValueError(f"no handler consumes queue {queue!r}; these are consumed: {', '.join(service.handlers)}")
        messages = [self._message(payload, route, options) for payload in payloads]
        with self._call(f"deliver({queue!r})", timeout) as call:
            keys = [(queue, message.read.message_id) for message in messages]
            call.pending += keys
            for message in messages:
                service.broker.put(queue, message)
            if advance is not None:
                await self._until_idle(call, but_own=True)
                await self._move(call, service.clock.time() + advance, but_own=True)
            await self._until_ended(call)
            await self._until_idle(call)
            judge([*call.own, *service.calls.take_rest()], expect)
            return _in_order(call.own, keys)

    def _message(self, payload: Any, route: tuple[str, str], options: MessageOptions) -> BrokerMessage:
        content = self._encoder.encode(payload, options)
        message_id = content.message_id or uuid.uuid4().hex.encode()
        properties = content.head + bytes((len(message_id),)) + message_id + content.tail
        return BrokerMessage(route[0], (route[1],), properties, content.body)

    # ---- what came of them

    @property
    def published(self) -> list[Received]:
        """The messages that handlers and lifespans have published, in their order; without mxworker's own copies."""
        return list(self._running.broker.host.published)

    def assert_published(
        self, routing_key: str, payload: Any = _ANYTHING, *, exchange: str = "", times: int | None = None
    ) -> Received:
        """Return the first message published so. Raise AssertionError when there is none, or not `times` of them.

        A payload is compared as it is sent: a dataclass is equal to the object that JSON makes of it.
        """
        wanted = None if payload is _ANYTHING else self._received(payload)
        found = [
            message
            for message in self.published
            if (message.exchange, message.routing_key) == (exchange, routing_key)
            and (wanted is None or message.payload == wanted.payload)
        ]
        if not found or (times is not None and len(found) != times):
            what = "" if wanted is None else f" as {wanted.payload!r}"
            all_of_them = "\n".join(f"  {message!r}" for message in self.published) or "  nothing"
            count = f"{len(found)} times, not {times}" if times is not None else "not"
            raise AssertionError(f"{routing_key!r}{what} was published {count}; published were:\n{all_of_them}")
        return found[0]

    def dead_letters(self, queue: str) -> list[Received]:
        """Return the dead letters of a queue, the oldest first."""
        handler = self._running.handlers.get(queue)
        return self.waiting_in(handler.queue.dead_letter_name if handler is not None else f"{queue}.dlq")

    def waiting_in(self, queue: str) -> list[Received]:
        """Return the messages that are ready in a queue, and leave them there."""
        return self._running.broker.waiting_in(queue)

    @property
    def now(self) -> float:
        """How far the clock was moved, in seconds."""
        return self._running.clock.time()

    def _received(self, payload: Any) -> Received:
        message = self._message(payload, ("", ""), {})
        return Received(message.body, message.properties, message.address)

    # ---- waiting

    @property
    def _running(self) -> InProcessService:
        if self._in_process is None:
            raise RuntimeError("this TestWorker does not run; use it inside 'async with TestWorker(...) as worker'")
        return self._in_process

    @contextmanager
    def _call(self, name: str, timeout: float | None) -> Iterator[Call]:
        seconds = self._timeout if timeout is None else timeout
        call = Call(name, asyncio.get_running_loop().time() + seconds, seconds)
        with self._running.calls.opened(call):
            yield call

    def _why(self, call: Call) -> str:
        return f"{call.name} waited {call.timeout:g} s for:\n{self._running.described()}"

    async def _until_idle(self, call: Call, but_own: bool = False, hangs_after: float | None = None) -> None:
        service = self._running

        def is_idle() -> bool:
            service.check()
            return service.is_idle(None if but_own else call)

        loop = asyncio.get_running_loop()
        while True:
            deadline = call.deadline if hangs_after is None else min(call.deadline, loop.time() + hangs_after)
            try:
                await service.changes.until(is_idle, deadline, lambda: self._why(call))
            except StillWaiting:
                if hangs_after is not None and service.only_runs_handlers:
                    return
                if deadline == call.deadline:
                    raise
            else:
                return

    async def _until_ended(self, call: Call) -> None:
        """Wait for the results of a call. Batches that only wait for their age are completed by moving the clock."""
        service = self._running

        def is_decided() -> bool:
            service.check()
            return not call.pending or service.only_gathers(call)

        while call.pending:
            await service.changes.until(is_decided, call.deadline, lambda: self._why(call))
            if call.pending:
                service.clock.move_to_nearest()

    async def _move(self, call: Call, until: float, but_own: bool = False, hangs_after: float | None = None) -> None:
        """Move the clock, with a stop at each instant at which something falls due."""
        clock = self._running.clock
        while (nearest := clock.nearest()) is not None and nearest <= until:
            clock.move_to_nearest()
            await self._until_idle(call, but_own, hangs_after)
        clock.move_to(until)
        await self._until_idle(call, but_own, hangs_after)


def _in_order(results: Sequence[Result], keys: Sequence[tuple[str, str | None]]) -> list[Result]:
    """Return results in the order of the messages that they are for; messages may have the same id."""
    left = list(results)
    ordered = []
    for key in keys:
        result = next(result for result in left if result.key == key)
        left.remove(result)
        ordered.append(result)
    return ordered
