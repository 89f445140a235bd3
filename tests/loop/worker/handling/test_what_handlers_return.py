"""What a call returns is awaited if it can be, then it is None or a settlement, or the delivery has failed."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Reject, Requeue, Retry
from tests.harness.runners import Channel, at_work, deliveries
from tests.harness.waiting import until

SOON_S = 10.0
DONE: dict[str, list[int]] = {"acked": [1]}
REFUSED: dict[str, list[int]] = {"rejected": [1]}


async def handled(handlers: Handlers, count: int = 1) -> Channel:
    """Have deliveries handled to the end, by the only handler."""
    bench, channel = at_work(handlers), Channel()
    for delivery in deliveries(channel, count, b"1"):
        bench.runner.admit(delivery)
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert not bench.broken
    return channel


def settled(channel: Channel) -> dict[str, list[int]]:
    ways = ("acked", "rejected", "requeued", "given_back")
    return {way: tags for way in ways if (tags := getattr(channel, way))}


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a metrics library's decorator does."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


class Deferred:
    """Something of the application's own that can be awaited."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaitable.__await__()


class Callee:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    async def __call__(self, payload: Any) -> Any:
        return await self._function(payload)


WRAPPERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "a wrapper": wrapped,
    "a wrapper of a wrapper": lambda function: wrapped(wrapped(function)),
    "a lambda": lambda function: lambda payload: function(payload),
    "an object": Callee,
    "a partial": lambda function: functools.partial(lambda first, payload: function(payload), 1),
    "an awaitable of its own": lambda function: lambda payload: Deferred(function(payload)),
    "a coroutine of a coroutine": lambda function: _returning(lambda payload: function(payload)),
    "a task": lambda function: _returning(lambda payload: asyncio.create_task(function(payload))),
    "a future": lambda function: _returning(lambda payload: asyncio.gather(function(payload))),
}


def _returning(make: Callable[[Any], Any]) -> Callable[..., Any]:
    async def call(payload: Any) -> Any:
        outcome = make(payload)
        return (
            _first(outcome)
            if isinstance(outcome, asyncio.Future) and not isinstance(outcome, asyncio.Task)
            else outcome
        )

    return call


async def _first(outcomes: Awaitable[list[Any]]) -> Any:
    return (await outcomes)[0]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("how", WRAPPERS)
async def test_what_can_be_awaited_has_run_before_it_is_settled(how: str, is_batch: bool) -> None:
    ran: list[Any] = []

    async def work(payload: Any) -> Any:
        await asyncio.sleep(0)
        ran.append(payload)
        return Reject("seen") if len(ran) == 1 else None

    handlers = Handlers()
    function = WRAPPERS[how](work)
    (handlers.consume_batch("queue", size=1) if is_batch else handlers.consume("queue"))(function)
    channel = await handled(handlers, 2)
    assert len(ran) == 2
    assert (channel.rejected, channel.acked) in (([1], [2]), ([2], [1]))


async def test_awaitable_of_a_def_handler_is_awaited_on_the_loop_within_its_time() -> None:
    handlers = Handlers()
    threads: list[int] = []

    async def work() -> None:
        threads.append(threading.get_ident())
        await asyncio.sleep(3600)

    @handlers.consume("queue", timeout=0.5, retry=None)
    def begin(payload: Any) -> Any:
        threads.append(threading.get_ident())
        return work()

    assert settled(await handled(handlers)) == REFUSED
    if len(threads) == 1:  # on a machine so busy that the time was up before the thread came to its end
        return
    assert threads[0] != threading.get_ident() == threads[1]


@pytest.mark.parametrize("how", ["one", "batch", "each of a batch"])
async def test_awaitable_that_a_def_handler_returns_after_its_time_is_not_awaited(how: str) -> None:
    """Nothing would end it: the cancellation came while the thread ran, which cannot be stopped."""
    handlers = Handlers()

    def begin(payload: Any) -> Any:
        time.sleep(0.3)  # longer than its time
        work = asyncio.sleep(3600)
        return [work] if how == "each of a batch" else work

    if how == "one":
        handlers.consume("queue", timeout=0.05, retry=None)(begin)
    else:
        handlers.consume_batch("queue", size=1, timeout=0.05, retry=None)(begin)
    assert settled(await handled(handlers)) == REFUSED


async def test_awaitable_that_is_cut_short_is_cancelled_and_left_unsettled() -> None:
    ended: list[BaseException] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            ended.append(error)
            raise

    handlers = Handlers()
    started = asyncio.Event()

    @handlers.consume("queue")
    async def begin(payload: Any) -> Any:
        started.set()
        return asyncio.create_task(work())

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await asyncio.wait_for(started.wait(), SOON_S)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.runner.cut_short()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.settled == 0
    await until(lambda: len(ended) == 1, SOON_S)


async def test_what_an_awaitable_raises_is_what_the_handler_raised() -> None:
    async def refuse(payload: Any) -> None:
        raise Reject("no")

    handlers = Handlers()
    handlers.consume("queue")(wrapped(refuse))
    assert settled(await handled(handlers)) == REFUSED


async def test_awaitables_without_end_are_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def again() -> Any:
        return again()

    handlers = Handlers()

    @handlers.consume("queue", retry=None)
    async def begin(payload: Any) -> Any:
        return again()

    assert settled(await handled(handlers)) == REFUSED
    assert "returned an awaitable of an awaitable" in caplog.text


# ---- what is no settlement


async def _agen() -> AsyncIterator[Ack]:
    yield Ack()


def _gen() -> Iterator[Ack]:
    yield Ack()


NO_SETTLEMENTS: dict[str, Callable[[], Any]] = {
    "returned an int": lambda: 42,
    "returned an int; return None": lambda: 0,
    "returned True (bool)": lambda: True,
    "returned False (bool)": lambda: False,
    "returned a str": str,
    "returned a str; return None": lambda: "ok",
    "returned a str;": lambda: "x" * 100,
    "returned a bytes;": lambda: b"ok",
    "returned a list;": lambda: [Ack()],
    "returned a dict;": dict,
    "returned a generator;": _gen,
    "returned an async_generator;": _agen,
    "returned a type;": lambda: ValueError,
    "returned an ellipsis;": lambda: ...,
    "returned an object;": object,
}


@pytest.mark.parametrize("kind", ["async", "def", "middleware"])
@pytest.mark.parametrize("text", NO_SETTLEMENTS)
async def test_anything_else_is_a_failure_that_says_what_came_back(
    text: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    make = NO_SETTLEMENTS[text]

    async def work(payload: Any) -> Any:
        return make()

    def work_in_thread(payload: Any) -> Any:
        return make()

    async def around(payload: Any, ctx: Context, call_next: Any) -> Any:
        await call_next(payload, ctx)
        return make()

    if kind == "middleware":
        handlers.middleware(around)
    handlers.consume("queue", retry=None)(work_in_thread if kind == "def" else work)
    assert settled(await handled(handlers)) == REFUSED
    (line,) = [line for line in caplog.messages if "failed on message" in line]
    assert text in line
    assert "return None, Ack(), Requeue(), Retry() or Reject()" in line


async def test_text_that_may_be_the_body_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()

    @handlers.consume("queue", retry=None)
    async def echo(payload: Any) -> Any:
        return "CANARY"

    await handled(handlers)
    assert "CANARY" not in caplog.text


# ---- batches


def mixed() -> list[Any]:
    return [None, Reject("no"), Ack, Requeue()]


OUTCOME = {"acked": [1, 3], "rejected": [2], "requeued": [4]}
BY_POSITION: dict[str, Callable[[], Any]] = {
    "a list": mixed,
    "a tuple": lambda: tuple(mixed()),
    "a generator": lambda: (each for each in mixed()),
    "an iterator": lambda: iter(mixed()),
    "a dict": lambda: dict(enumerate(mixed())),
    "a dict in another order": lambda: dict(reversed(list(enumerate(mixed())))),
    "a mapping": lambda: MappingProxyType(OrderedDict(enumerate(mixed()))),
    "the values of a dict": lambda: dict(enumerate(mixed())).values(),
    "awaitables": lambda: [_comes_to(each) for each in mixed()],
}


async def _comes_to(outcome: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize("kind", ["async", "def", "wrapper", "middleware"])
@pytest.mark.parametrize("how", BY_POSITION)
async def test_batch_may_be_settled_by_position(how: str, kind: str) -> None:
    handlers = Handlers()
    make = BY_POSITION[how]

    async def work(payloads: list[Any]) -> Any:
        return make() if kind != "middleware" else None

    def work_in_thread(payloads: list[Any]) -> Any:
        return make()

    if kind == "middleware":

        @handlers.middleware
        async def around(payloads: Any, ctx: Context, call_next: Any) -> Any:
            await call_next(payloads, ctx)
            return make()

    handlers.consume_batch("queue", size=4)({"def": work_in_thread, "wrapper": wrapped(work)}.get(kind, work))
    assert settled(await handled(handlers, 4)) == OUTCOME


async def test_generator_of_a_def_handler_runs_in_its_thread() -> None:
    handlers = Handlers()
    threads: set[int] = set()

    @handlers.consume_batch("queue", size=2)
    def work(payloads: list[Any]) -> Any:
        return (threads.add(threading.get_ident()) for _ in payloads)

    assert settled(await handled(handlers, 2)) == {"acked": [1, 2]}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


BATCH_FAILURES: dict[str, Callable[[], Any]] = {
    "returned an int": lambda: 42,
    "returned a str": lambda: "ok",
    "returned a bytes": lambda: b"okay",
    "returned a set": lambda: {1, 2, 3, 4},
    "returned an async_generator": _agen,
    "returned 3 settlements for 4 payloads": lambda: [None] * 3,
    "returned 5 settlements for 4 payloads": lambda: [None] * 5,
    "returned 1 settlements for 4 payloads": _gen,
    "returned a dict of 1 for 4 payloads": lambda: {1: Reject()},
    "returned a dict of 0 for 4 payloads": dict,
    "returned a dict of 4 for 4 payloads": lambda: {"a": None, "b": None, "c": None, "d": None},
}


@pytest.mark.parametrize("kind", ["async", "def"])
@pytest.mark.parametrize("text", BATCH_FAILURES)
async def test_batch_that_is_not_settled_by_position_has_failed(
    text: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    make = BATCH_FAILURES[text]

    async def work(payloads: list[Any]) -> Any:
        return make()

    def work_in_thread(payloads: list[Any]) -> Any:
        return make()

    handlers.consume_batch("queue", size=4, retry=None)(work if kind == "async" else work_in_thread)
    assert settled(await handled(handlers, 4)) == {"rejected": [1, 2, 3, 4]}
    assert text in caplog.text


async def test_one_of_a_batch_that_is_no_settlement_fails_alone() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    handlers = Handlers()

    @handlers.consume_batch("queue", size=6, retry=None)
    async def work(payloads: list[Any]) -> Any:
        return [None, 42, [Ack()], ValueError("no"), leave(), Ack()]

    assert settled(await handled(handlers, 6)) == {"acked": [1, 6], "rejected": [2, 3, 4, 5]}


# ---- groups


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("g", errors)


@pytest.mark.parametrize("kind", ["async", "def", "middleware", "returned", "batch"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: group(Reject("no stock")), None),
        (lambda: group(group(group(Reject("no stock")))), None),
        (lambda: group(asyncio.CancelledError(), group(Reject("no stock"))), None),
        (lambda: group(Reject("no stock"), Reject("no price")), "Reject: no stock; Reject: no price"),
        (lambda: group(Retry(reason="busy"), Reject("no price")), "Retry: busy; Reject: no price"),
        (lambda: group(Reject("no stock"), ValueError("x")), "Reject: no stock; ValueError: x"),
        (lambda: group(ValueError("x"), group(KeyError(1))), "ValueError: x; KeyError: 1"),
    ],
)
async def test_settlement_that_is_alone_in_its_group_counts_and_of_several_each_is_told(
    make: Callable[[], BaseException], text: str | None, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()

    async def fail(payload: Any) -> Any:
        if kind == "returned":
            return make()
        raise make()

    def fail_in_thread(payload: Any) -> Any:
        raise make()

    if kind == "middleware":

        @handlers.middleware
        async def around(payload: Any, ctx: Context, call_next: Any) -> Any:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(call_next(payload, ctx))

    register = handlers.consume_batch("queue", size=1) if kind == "batch" else handlers.consume("queue")
    register(fail_in_thread if kind == "def" else fail)
    caplog.set_level("INFO", "mxworker")
    channel = await handled(handlers)
    if text is None:
        assert settled(channel) == REFUSED
        assert "rejected message" in caplog.text
        assert "it is a dead letter now: no stock" in caplog.text
    else:
        assert settled(channel) == {"given_back": [1]}, "it is to be tried again, and there is no publisher"
        assert text in caplog.text


async def test_reject_out_of_a_task_group_is_a_reject_and_its_siblings_are_cancelled() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def work(payload: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(3600))
            tasks.create_task(_comes_to(Reject("no")))

    assert settled(await handled(handlers)) == REFUSED


@pytest.mark.parametrize("how", ["one", "batch", "each of a batch", "def in a middleware"])
async def test_awaitable_after_a_failed_task_group_is_awaited(how: str) -> None:
    """In Python 3.11 and 3.12 the task then looks for ever as if it were being cancelled."""
    handlers = Handlers()
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    async def begin(payload: Any) -> Any:
        await _task_group_fails()
        return [work()] if how == "each of a batch" else work()

    async def fails_before(payload: Any, ctx: Context, call_next: Any) -> Any:
        await _task_group_fails()
        return await call_next(payload, ctx)

    match how:
        case "one":
            handlers.consume("queue", retry=None)(begin)
        case "def in a middleware":
            handlers.middleware(fails_before)
            handlers.consume("queue", retry=None)(lambda payload: work())
        case _:
            handlers.consume_batch("queue", size=1, retry=None)(begin)
    assert settled(await handled(handlers)) == DONE
    assert done == [1]


async def _task_group_fails() -> None:
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_comes_to(OSError()))


@pytest.mark.parametrize(
    ("errors", "way"), [([KeyError(1), KeyError(2)], "rejected"), ([KeyError(1), OSError()], "given_back")]
)
async def test_reject_on_takes_a_group_of_nothing_else(errors: list[Exception], way: str) -> None:
    handlers = Handlers()

    @handlers.consume("queue", reject_on=[LookupError])
    async def fail(payload: Any) -> None:
        raise group(*errors)

    assert settled(await handled(handlers)) == {way: [1]}
