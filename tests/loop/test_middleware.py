"""What an application puts around its handlers: the order, and what it may make of payload, outcome and errors."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Reject, Requeue
from mxworker.middleware import compose
from tests.harness.stations import Channel, at_work, deliveries

SOON_S = 60.0


async def handled(handlers: Handlers, count: int = 1, body: bytes = b"x") -> Channel:
    """Have deliveries handled to the end, by the only handler."""
    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, count, body):
        bench.station.admit(delivery)
    await asyncio.wait_for(bench.station.finished(), SOON_S)
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
    for station in bench.stations:
        station.admit(*deliveries(channel, 1))
        await station.finished()
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
