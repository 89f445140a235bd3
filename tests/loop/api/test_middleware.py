"""What an application puts around its handlers: the order, and what it may make of payload, outcome and errors."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Reject, Requeue
from mxworker.worker.handling.middleware_chain import compose
from tests.harness.runners import Channel, at_work, deliveries

SOON_S = 60.0


async def handled(handlers: Handlers, count: int = 1, body: bytes = b"x") -> Channel:
    """Have deliveries handled to the end, by the only handler."""
    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, count, body):
        bench.runner.admit(delivery)
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert not bench.broken
    return channel


def noting(name: str, notes: list[str]) -> Any:
    async def note(payload: Any, ctx: Any, call_next: Any) -> Any:
        notes.append(f"{name} in")
        outcome = await call_next(payload, ctx)
        notes.append(f"{name} out")
        return outcome

    return note


async def test_first_registered_is_the_outermost() -> None:
    handlers = Handlers()
    notes: list[str] = []
    handlers.middleware(noting("a", notes))
    handlers.middleware(noting("b", notes))

    @handlers.consume("queue")
    async def take(body: str) -> None:
        notes.append(body)

    assert (await handled(handlers)).acked == [1]
    assert notes == ["a in", "b in", "x", "b out", "a out"]


async def test_included_registry_has_its_own_inside_ours_and_ours_alone_is_around_ours() -> None:
    ours, theirs = Handlers(), Handlers()
    notes: list[str] = []
    theirs.middleware(noting("their", notes))
    ours.include(theirs)
    ours.middleware(noting("our", notes))

    @ours.consume("ours")
    async def our(body: str) -> None:
        notes.append("our handler")

    @theirs.consume("theirs")
    async def their(body: str) -> None:
        notes.append("their handler")

    bench, channel = at_work(ours), Channel()
    for runner in bench.runners:
        runner.admit(*deliveries(channel, 1))
        await runner.finished()
    assert notes[:3] == ["our in", "our handler", "our out"]
    assert notes[3:] == ["our in", "their in", "their handler", "their out", "our out"]


@pytest.mark.parametrize("wants_context", [True, False])
async def test_payload_may_be_replaced(wants_context: bool) -> None:
    handlers = Handlers()
    taken: list[str] = []

    @handlers.middleware
    async def shout(payload: Any, ctx: Context, call_next: Any) -> Any:
        return await call_next(payload.upper() + ctx.queue, ctx)

    if wants_context:

        @handlers.consume("queue")
        async def take_with_context(body: str, ctx: Context) -> None:
            taken.append(body + ctx.handler)

    else:

        @handlers.consume("queue")
        async def take(body: str) -> None:
            taken.append(body)

    await handled(handlers)
    assert taken == ["Xqueuetake_with_context" if wants_context else "Xqueue"]


async def test_exception_of_the_handler_may_become_a_settlement() -> None:
    handlers = Handlers()

    @handlers.middleware
    async def map_errors(payload: Any, ctx: Any, call_next: Any) -> Any:
        try:
            return await call_next(payload, ctx)
        except KeyError:
            return Requeue()
        except ValueError as error:
            raise Reject("not a value") from error

    @handlers.consume("queue", retry=None)
    async def fail(body: str, ctx: Context) -> None:
        raise KeyError if ctx.delivery.delivery_tag == 1 else ValueError

    channel = await handled(handlers, 2)
    assert (channel.requeued, channel.rejected) == ([1], [2])


async def test_outcome_may_be_swallowed_or_replaced_and_the_handler_left_out() -> None:
    handlers = Handlers()
    called: list[int] = []

    @handlers.middleware
    async def judge(payload: Any, ctx: Context, call_next: Any) -> Any:
        match ctx.delivery.delivery_tag:
            case 1:
                try:
                    await call_next(payload, ctx)
                except ValueError:
                    return None
            case 2:
                return Reject("a duplicate")
            case 3:
                raise RuntimeError("of the middleware")
        return Ack()

    @handlers.consume("queue", retry=None, on_error="requeue")
    async def fail(body: str, ctx: Context) -> None:
        called.append(ctx.delivery.delivery_tag)
        raise ValueError

    channel = await handled(handlers, 4)
    assert (channel.acked, channel.rejected, channel.requeued) == ([1, 4], [2], [3])
    assert called == [1]


async def test_settlement_that_a_handler_raises_passes_as_an_exception() -> None:
    handlers = Handlers()
    seen: list[BaseException] = []

    @handlers.middleware
    async def watch(payload: Any, ctx: Any, call_next: Any) -> Any:
        try:
            return await call_next(payload, ctx)
        except Reject as settlement:
            seen.append(settlement)
            raise

    @handlers.consume("queue")
    async def refuse(body: str) -> None:
        raise Reject("no")

    assert (await handled(handlers)).rejected == [1]
    assert [str(one) for one in seen] == ["no"]


async def test_deadline_is_for_the_middleware_too() -> None:
    handlers = Handlers()

    @handlers.middleware
    async def slow(payload: Any, ctx: Any, call_next: Any) -> Any:
        await asyncio.sleep(3600)

    @handlers.consume("queue", timeout=0.03, retry=None)
    async def never(body: str) -> None:
        raise AssertionError

    assert (await handled(handlers)).rejected == [1]


async def test_undecodable_body_is_never_shown() -> None:
    handlers = Handlers()
    notes: list[str] = []
    handlers.middleware(noting("a", notes))

    @handlers.consume("queue")
    async def take(payload: dict[str, Any]) -> None: ...

    assert (await handled(handlers, body=b"not json")).rejected == [1]
    assert notes == []


async def test_def_handler_runs_in_its_thread_and_its_middleware_on_the_loop() -> None:
    handlers = Handlers()
    threads: list[int] = []

    @handlers.middleware
    async def here(payload: Any, ctx: Any, call_next: Any) -> Any:
        threads.append(threading.get_ident())
        try:
            return await call_next(payload + "y", ctx)
        except ValueError as error:
            return Requeue() if str(error) == "xy" else Ack()

    @handlers.consume("queue")
    def there(body: str) -> None:
        threads.append(threading.get_ident())
        raise ValueError(body)

    assert (await handled(handlers)).requeued == [1]
    assert threads[0] == threading.get_ident() != threads[1]


# ---- what a middleware's None means


def around(handlers: Handlers, middleware: Any, *, is_batch: bool, outcome: Any, raises: bool = False) -> None:
    """Register a middleware, and a handler that ends in `outcome`; in a batch of one it is that of the one."""
    handlers.middleware(middleware)

    async def work(payload: Any) -> Any:
        if raises:
            raise outcome
        return [outcome] if is_batch else outcome

    (handlers.consume_batch("queue", size=1, retry=None) if is_batch else handlers.consume("queue", retry=None))(work)


async def forgets_return(payload: Any, ctx: Any, call_next: Any) -> None:
    await call_next(payload, ctx)


async def swallows(payload: Any, ctx: Any, call_next: Any) -> None:
    with contextlib.suppress(BaseException):
        await call_next(payload, ctx)


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("outcome", [Reject("no"), Reject, ValueError("no"), 42])
async def test_forgotten_return_loses_nothing(outcome: Any, is_batch: bool) -> None:
    handlers = Handlers()
    around(handlers, forgets_return, is_batch=is_batch, outcome=outcome)
    assert (await handled(handlers, body=b"1")).rejected == [1]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("outcome", [Reject("no"), ExceptionGroup("g", [Reject("no")])])
async def test_settlement_that_was_raised_and_swallowed_stands(outcome: Any, is_batch: bool) -> None:
    handlers = Handlers()
    around(handlers, swallows, is_batch=is_batch, outcome=outcome, raises=True)
    assert (await handled(handlers, body=b"1")).rejected == [1]


async def test_it_stands_through_several_layers_as_if_they_were_not_there() -> None:
    handlers = Handlers()
    seen: list[str] = []

    @handlers.middleware
    async def outermost(payload: Any, ctx: Any, call_next: Any) -> Any:
        try:
            return await call_next(payload, ctx)
        except Reject as settlement:
            seen.append(settlement.reason)
            raise

    handlers.middleware(forgets_return)
    around(handlers, swallows, is_batch=False, outcome=Reject("no"), raises=True)
    assert (await handled(handlers, body=b"1")).rejected == [1]
    assert seen == ["no"]


@pytest.mark.parametrize("is_batch", [False, True])
async def test_exception_that_is_swallowed_on_purpose_stays_swallowed(is_batch: bool) -> None:
    handlers = Handlers()
    around(handlers, swallows, is_batch=is_batch, outcome=ValueError("no"), raises=True)
    assert (await handled(handlers, body=b"1")).acked == [1]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("replacement", [Ack(), Ack])
@pytest.mark.parametrize("raises", [False, True])
async def test_settlement_replaces_what_is_inside(is_batch: bool, replacement: Any, raises: bool) -> None:
    async def replace(payload: Any, ctx: Any, call_next: Any) -> Any:
        await swallows(payload, ctx, call_next)
        return replacement

    handlers = Handlers()
    around(handlers, replace, is_batch=is_batch, outcome=Reject("no"), raises=raises)
    assert (await handled(handlers, body=b"1")).acked == [1]


@pytest.mark.parametrize("is_batch", [False, True])
async def test_of_several_calls_the_last_one_counts(is_batch: bool) -> None:
    async def twice(payload: Any, ctx: Any, call_next: Any) -> None:
        for _ in range(2):
            with contextlib.suppress(ValueError, Reject):
                await call_next(payload, ctx)

    for outcomes, way in (
        ([ValueError("x"), None], "acked"),
        ([Reject("x"), None], "acked"),
        ([None, Reject("x")], "rejected"),
    ):
        handlers = Handlers()
        handlers.middleware(twice)
        left = list(outcomes)

        async def work(payload: Any, left: list[Any] = left) -> Any:
            outcome = left.pop(0)
            if outcome is not None:
                raise outcome

        (handlers.consume_batch("queue", size=1) if is_batch else handlers.consume("queue"))(work)
        assert getattr(await handled(handlers, body=b"1"), way) == [1]


async def calls_nothing(payload: Any, ctx: Any, call_next: Any) -> None: ...


async def awaits_nothing(payload: Any, ctx: Any, call_next: Any) -> None:
    call_next(payload, ctx).close()


LEFT_BEHIND: list[asyncio.Task[Any]] = []


async def leaves_it_running(payload: Any, ctx: Any, call_next: Any) -> None:
    LEFT_BEHIND.append(asyncio.create_task(call_next(payload, ctx)))
    await asyncio.sleep(0)


def says_nothing(payload: Any, ctx: Any, call_next: Any) -> None: ...


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize(
    ("middleware", "text"),
    [
        (
            calls_nothing,
            "middleware calls_nothing returned None without calling call_next; return Ack() to skip the handler",
        ),
        (
            says_nothing,
            "middleware says_nothing returned None without calling call_next; return Ack() to skip the handler",
        ),
        (awaits_nothing, "middleware awaits_nothing did not await call_next, so the handler has not ended"),
        (leaves_it_running, "middleware leaves_it_running did not await call_next, so the handler has not ended"),
    ],
)
async def test_message_whose_handler_did_not_run_is_never_acked(
    middleware: Any, text: str, is_batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    handlers.middleware(middleware)

    async def work(payload: Any) -> None:
        await asyncio.sleep(0.01)

    (handlers.consume_batch("queue", size=1, retry=None) if is_batch else handlers.consume("queue", retry=None))(work)
    channel = await handled(handlers, body=b"1")
    await asyncio.gather(*LEFT_BEHIND)
    LEFT_BEHIND.clear()
    assert channel.rejected == [1]
    assert text in caplog.text


class Audit:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, payload: Any, ctx: Any, call_next: Any) -> Any:
        self.seen.append(await call_next(payload, ctx))
        return self.seen[-1]

    def plain(self, payload: Any, ctx: Any, call_next: Any) -> Any:
        return self(payload, ctx, call_next)


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize(
    "make", [lambda audit: audit, lambda audit: audit.plain, lambda audit: lambda *given: audit(*given)]
)
async def test_middleware_may_be_anything_that_returns_an_awaitable(is_batch: bool, make: Any) -> None:
    handlers, audit = Handlers(), Audit()
    around(handlers, make(audit), is_batch=is_batch, outcome=Reject("no"))
    assert (await handled(handlers, body=b"1")).rejected == [1]
    assert len(audit.seen) == 1


async def test_middleware_is_shown_what_came_of_the_handler_and_no_coroutine() -> None:
    handlers, audit = Handlers(), Audit()
    handlers.middleware(audit)

    async def work(payload: Any) -> Any:
        return Reject("no")

    handlers.consume("queue", retry=None)(lambda payload: work(payload))
    assert (await handled(handlers, body=b"1")).rejected == [1]
    assert [type(seen) for seen in audit.seen] == [Reject]


# ---- none costs nothing


async def test_without_middleware_the_function_itself_is_called() -> None:
    handlers = Handlers()
    callers: list[str] = []

    @handlers.consume("queue")
    async def take(body: bytes) -> None:
        caller = sys._getframe(1)
        callers.append(f"{Path(caller.f_code.co_filename).name} {caller.f_code.co_name}")

    assert (await handled(handlers)).acked == [1]
    assert callers == ["execution.py execute"]


async def test_nothing_around_a_call_is_the_call_itself() -> None:
    async def innermost(payload: Any, ctx: Any) -> None: ...

    assert compose((), innermost) is innermost
