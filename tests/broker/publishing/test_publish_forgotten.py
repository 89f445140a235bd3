"""What a handler publishes is confirmed before its ack, or the delivery fails and names the line to change."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import threading
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mxworker import Context, Handlers, Publisher
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import PublishError, PublishUnconfirmed, Unroutable
from tests.broker.failing import dead_letters
from tests.broker.publishing.test_publish_in_handler import Withheld, assert_not_acked_before_the_confirm
from tests.broker.workers import running
from tests.harness.proxy import proxy_to
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import until
from tests.rabbit.client import Client

SOON_S = 60.0


def register(handlers: Handlers, kind: str, queue: str, act: Callable[[Context], Any]) -> None:
    """Register a handler of a kind that calls `act`, and awaits what it returns if it is a coroutine function."""
    is_async = inspect.iscoroutinefunction(act)

    async def acting(_: Any, ctx: Context) -> None:
        if is_async:
            await act(ctx)
        else:
            act(ctx)

    def acting_in_a_thread(_: Any, ctx: Context) -> None:
        act(ctx)

    if kind == "middleware":

        @handlers.middleware
        async def around(payload: Any, ctx: Context, call_next: Callable[..., Awaitable[Any]]) -> Any:
            await acting(payload, ctx)
            return await call_next(payload, ctx)

        @handlers.consume(queue, retry=None)
        async def handler(body: bytes, ctx: Context) -> None:
            pass
    elif "batch" in kind:
        function = acting_in_a_thread if "def" in kind else acting

        async def handle(bodies: list[bytes], ctx: Context) -> None:
            await acting(bodies, ctx)

        def handle_in_a_thread(bodies: list[bytes], ctx: Context) -> None:
            acting_in_a_thread(bodies, ctx)

        chosen: Any = handle if function is acting else handle_in_a_thread
        handlers.consume_batch(queue, wait=0.01, retry=None)(chosen)
    else:

        async def one(body: bytes, ctx: Context) -> None:
            await acting(body, ctx)

        def one_in_a_thread(body: bytes, ctx: Context) -> None:
            acting_in_a_thread(body, ctx)

        chosen = one_in_a_thread if kind == "def" else one
        handlers.consume(queue, retry=None)(chosen)


async def failure_of(kind: str, act: Callable[[Context], Any], url: str, queue: str, admin: Client) -> tuple[str, str]:
    """Run one delivery through a handler that calls `act`; return the error's type and text off its dead letter."""
    handlers = Handlers()
    register(handlers, kind, queue, act)
    async with running(url, handlers) as worker:
        admin.publish(queue, [b"1"])
        letters = await dead_letters(admin, queue, 1)
        assert worker.count(Outcome.ACK) == 0
    headers = letters["1"].headers
    return str(headers["mx-error-type"]), str(headers["mx-error"])


# ---- never awaited


def _forget_publish(ctx: Context) -> None:
    ctx.publisher.publish(b"x", routing_key=f"{ctx.queue}.out")


def _forget_publish_many(ctx: Context) -> None:
    ctx.publisher.publish_many([b"x"], routing_key=f"{ctx.queue}.out")


def _forget_several(ctx: Context) -> None:
    kept = [ctx.publisher.publish(b"x", routing_key=f"{ctx.queue}.out") for _ in range(3)]
    ctx.log.debug("%d", len(kept))


async def _forget_in_a_thread(ctx: Context) -> None:
    await asyncio.to_thread(_forget_publish, ctx)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("async", _forget_publish),
        ("async", _forget_publish_many),
        ("async", _forget_several),
        ("async", _forget_in_a_thread),
        ("def", _forget_publish),
        ("def", _forget_publish_many),
        ("batch", _forget_publish),
        ("def batch", _forget_publish),
        ("middleware", _forget_publish),
    ],
)
async def test_publish_without_await_fails_its_delivery_and_names_the_line(
    kind: str, act: Callable[[Context], Any], broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    forgetting = _forget_publish if act is _forget_in_a_thread else act
    lines, first = inspect.getsourcelines(forgetting)
    line = first + next(number for number, text in enumerate(lines) if "ctx.publisher.publish" in text)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        error_type, error = await failure_of(kind, act, broker_url, queue_name, admin)
        gc.collect()
    assert error_type == "RuntimeError"
    method = "publish_many" if act is _forget_publish_many else "publish"
    assert f"ctx.publisher.{method}(...) at {__file__}:{line}" in error
    assert "never awaited" in error
    assert f"await ctx.publisher.{method}(" in error
    assert "publish_sync" in error
    assert ("(and 2 more)" in error) is (act is _forget_several)
    assert admin.counts(output).messages == 0
    assert not [one for one in warned if "never awaited" in str(one.message)]


# ---- from another event loop, or from none


def _run_publish(ctx: Context) -> None:
    asyncio.run(ctx.publisher.publish(b"x", routing_key=f"{ctx.queue}.out"))


def _run_publish_many(ctx: Context) -> None:
    asyncio.run(ctx.publisher.publish_many([b"x"], routing_key=f"{ctx.queue}.out"))


def _publish_nowait(ctx: Context) -> None:
    ctx.publisher.publish_nowait(b"x", routing_key=f"{ctx.queue}.out")


def _run_publish_nowait(ctx: Context) -> None:
    async def main() -> None:
        ctx.publisher.publish_nowait(b"x", routing_key=f"{ctx.queue}.out")

    asyncio.run(main())


def _run_channel(ctx: Context) -> None:
    async def main() -> None:
        async with ctx.channel():
            pass

    asyncio.run(main())


async def _publish_in_a_thread_of_its_own(ctx: Context) -> None:
    await asyncio.to_thread(_run_publish, ctx)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("def", _run_publish),
        ("def", _run_publish_many),
        ("def", _publish_nowait),
        ("def", _run_publish_nowait),
        ("def", _run_channel),
        ("def batch", _run_publish),
        ("async", _publish_in_a_thread_of_its_own),
    ],
)
async def test_publisher_in_another_event_loop_says_at_once_what_to_use(
    kind: str, act: Callable[[Context], Any], broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    error_type, error = await failure_of(kind, act, broker_url, queue_name, admin)
    assert error_type == "RuntimeError"
    assert "publish_sync(...)" in error
    assert admin.counts(output).messages == 0


async def test_receipt_awaited_in_another_event_loop_is_an_error_at_once(broker_url: str, output: str) -> None:
    async with proxy_to(broker_url) as proxy, Publisher.connect(proxy.url(broker_url)) as publisher:
        withheld = Withheld(proxy)
        receipt = publisher.publish_nowait(b"x", routing_key=output)

        async def wait() -> None:
            await receipt

        with pytest.raises(RuntimeError, match="publish_sync"):
            await asyncio.to_thread(asyncio.run, wait())
        await until(lambda: len(withheld), SOON_S, "the confirm")
        withheld.release()
        await receipt


async def test_publish_made_in_a_thread_for_the_publishers_loop_is_sent(broker_url: str, output: str) -> None:
    async with Publisher.connect(broker_url) as publisher:
        loop = asyncio.get_running_loop()

        def publish() -> None:
            coroutine = publisher.publish(b"x", routing_key=output)
            asyncio.run_coroutine_threadsafe(coroutine, loop).result(SOON_S)

        await asyncio.to_thread(publish)


async def test_thread_pauses_and_resumes_a_queue(broker_url: str, queue_name: str, admin: Client) -> None:
    handlers = Handlers()
    handled: list[str] = []

    @handlers.consume(queue_name, retry=None)
    def handler(body: str, ctx: Context) -> None:
        handled.append(body)
        ctx.pause()
        with pytest.raises(KeyError):
            ctx.resume("no such queue")

    async with running(broker_url, handlers) as worker:
        (consumer,) = worker.service.parts.consumers
        admin.publish(queue_name, [b"1"])
        await until(lambda: worker.count(Outcome.ACK) == 1 and consumer.consumer_tag is None, SOON_S, "the pause")
        await asyncio.to_thread(worker.service.parts.controls.resume, queue_name)
        await until(lambda: consumer.is_consuming, SOON_S, "the resumption")
        admin.publish(queue_name, [b"2"])
        await until(lambda: handled == ["1", "2"], SOON_S, "the second message")


# ---- in tasks

_kept: set[asyncio.Task[Any]] = set()


def keep(task: asyncio.Task[Any]) -> None:
    """Hold on to a task that nobody waits for, until it has ended."""
    _kept.add(task)
    task.add_done_callback(_kept.discard)


async def _in_a_task(ctx: Context, routing_key: str) -> None:
    keep(asyncio.create_task(ctx.publisher.publish(b"x", routing_key=routing_key)))


async def _in_a_task_that_runs(ctx: Context, routing_key: str) -> None:
    keep(asyncio.create_task(ctx.publisher.publish(b"x", routing_key=routing_key)))
    await asyncio.sleep(0)


async def _in_a_gather(ctx: Context, routing_key: str) -> None:
    asyncio.gather(*(ctx.publisher.publish(b"x", routing_key=routing_key) for _ in range(2)))


async def _many_in_a_task(ctx: Context, routing_key: str) -> None:
    keep(asyncio.create_task(ctx.publisher.publish_many([b"x", b"y"], routing_key=routing_key)))


async def _inside_a_task(ctx: Context, routing_key: str) -> None:
    async def help_out() -> None:
        await ctx.publisher.publish(b"x", routing_key=routing_key)

    keep(asyncio.create_task(help_out()))
    await asyncio.sleep(0)


async def _in_a_thread(ctx: Context, routing_key: str) -> None:
    before = ctx.publisher.stats.tasks_queued

    def publish() -> None:
        with suppress(PublishError):
            ctx.publisher.publish_sync(b"x", routing_key=routing_key)

    keep(asyncio.create_task(asyncio.to_thread(publish)))
    await until(lambda: ctx.publisher.stats.tasks_queued > before, SOON_S, "the publish")


IN_TASKS = [_in_a_task, _in_a_task_that_runs, _in_a_gather, _many_in_a_task, _inside_a_task, _in_a_thread]


@pytest.mark.parametrize("act", IN_TASKS)
async def test_publish_in_a_task_is_confirmed_before_the_ack(
    act: Callable[[Context, str], Awaitable[None]], broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    await assert_not_acked_before_the_confirm(lambda ctx: act(ctx, output), broker_url, queue_name, admin)


@pytest.mark.parametrize("act", [act for act in IN_TASKS if act is not _in_a_thread])  # which sees it itself
async def test_failure_of_a_publish_on_its_way_is_the_handlers(
    act: Callable[[Context, str], Awaitable[None]], broker_url: str, queue_name: str, admin: Client
) -> None:
    async def fail(ctx: Context) -> None:
        await act(ctx, f"{queue_name}.missing")

    error_type, _ = await failure_of("async", fail, broker_url, queue_name, admin)
    assert error_type == "Unroutable"


async def test_task_that_failed_unseen_fails_the_delivery(broker_url: str, queue_name: str, admin: Client) -> None:
    async def fail(ctx: Context) -> None:
        task = asyncio.create_task(ctx.publisher.publish(b"x", routing_key=f"{queue_name}.missing"))
        await asyncio.wait({task})

    error_type, _ = await failure_of("async", fail, broker_url, queue_name, admin)
    assert error_type == "Unroutable"


async def test_failures_that_the_handler_has_seen_are_its_own_business(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    missing = f"{queue_name}.missing"

    @handlers.consume(queue_name, retry=None)
    async def handler(body: bytes, ctx: Context) -> None:
        with suppress(Unroutable):
            await ctx.publisher.publish(body, routing_key=missing)
        task = asyncio.create_task(ctx.publisher.publish(body, routing_key=missing))
        with suppress(Unroutable):
            await task
        await asyncio.gather(ctx.publisher.publish(body, routing_key=missing), return_exceptions=True)
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.publisher.publish(body, routing_key=missing))
        await asyncio.create_task(ctx.publisher.publish_many([body], routing_key=missing))
        with suppress(Unroutable):
            await asyncio.to_thread(ctx.publisher.publish_sync, body, routing_key=missing)
        task = asyncio.create_task(ctx.publisher.publish(body, routing_key=missing))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)


async def _cancelled_before_it_starts(ctx: Context, routing_key: str) -> None:
    asyncio.create_task(ctx.publisher.publish(b"x", routing_key=routing_key)).cancel()


async def _many_cancelled_before_they_start(ctx: Context, routing_key: str) -> None:
    asyncio.create_task(ctx.publisher.publish_many([b"x"], routing_key=routing_key)).cancel()


async def _cancelled_before_it_starts_and_awaited(ctx: Context, routing_key: str) -> None:
    task = asyncio.create_task(ctx.publisher.publish(b"x", routing_key=routing_key))
    task.cancel()
    await asyncio.wait({task})


async def _without_time_to_start(ctx: Context, routing_key: str) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(ctx.publisher.publish(b"x", routing_key=routing_key), 0)


async def _cancelled_on_its_way(ctx: Context, routing_key: str) -> None:
    task = asyncio.create_task(ctx.publisher.publish(b"x", routing_key=routing_key))
    await asyncio.sleep(0)
    task.cancel()


@pytest.mark.parametrize(
    "act",
    [
        _cancelled_before_it_starts,
        _many_cancelled_before_they_start,
        _cancelled_before_it_starts_and_awaited,
        _without_time_to_start,
        _cancelled_on_its_way,
    ],
)
async def test_publish_that_its_handler_cancelled_is_its_own_business(
    act: Callable[[Context, str], Awaitable[None]], broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()

    @handlers.consume(queue_name, retry=None)
    async def handler(body: bytes, ctx: Context) -> None:
        await act(ctx, output)

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)


async def test_publish_that_is_cancelled_after_the_handler_returned_fails_the_delivery(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()
    tasks: list[asyncio.Task[Any]] = []

    @handlers.consume(queue_name, retry=None)
    async def handler(body: bytes, ctx: Context) -> None:
        tasks.append(asyncio.create_task(ctx.publisher.publish(b"x", routing_key=output)))

    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers) as worker:
        withheld = Withheld(proxy)
        admin.publish(queue_name, [b"1"])
        await until(lambda: len(withheld), SOON_S, "the confirm")
        tasks[0].cancel()
        withheld.release()
        letters = await dead_letters(admin, queue_name, 1)
        assert worker.count(Outcome.ACK) == 0
    assert letters["1"].headers["mx-error-type"] == "PublishUnconfirmed"
    assert "was given up before its confirm came" in str(letters["1"].headers["mx-error"])


async def test_unknown_outcome_that_a_thread_has_seen_is_its_own_business(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()
    has_given_up = threading.Event()

    def publish(ctx: Context, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(has_given_up.wait, SOON_S)
        with pytest.raises(PublishUnconfirmed, match="did not answer"):
            ctx.publisher.publish_sync(b"x", routing_key=output, timeout_s=0.01)
        has_given_up.set()

    @handlers.consume(queue_name, retry=None)
    async def handler(body: bytes, ctx: Context) -> None:
        await asyncio.to_thread(publish, ctx, asyncio.get_running_loop())

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)


async def test_task_of_an_earlier_delivery_fails_nobody(
    broker_url: str, queue_name: str, output: str, admin: Client
) -> None:
    handlers = Handlers()
    tasks: list[asyncio.Task[None]] = []
    go_on = asyncio.Event()

    async def publish_later(ctx: Context) -> None:
        await go_on.wait()
        with suppress(Unroutable):
            await ctx.publisher.publish(b"x", routing_key=f"{queue_name}.missing")
        await ctx.publisher.publish(b"x", routing_key=output)

    @handlers.consume(queue_name, retry=None)
    async def handler(body: str, ctx: Context) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(publish_later(ctx)))
        else:
            go_on.set()
            await asyncio.sleep(0)

    async with running(broker_url, handlers) as worker:
        await worker.settle_one(admin, queue_name)
        await worker.settle_one(admin, queue_name)
        await tasks[0]
    assert admin.counts(output).messages == 1


# ---- in a process of its own

CPU_APP = """
    import asyncio
    import os

    from mxworker import Context, Handlers, Publisher

    handlers = Handlers()
    queue = os.environ["QUEUE"]


    @handlers.middleware
    async def around(payload, ctx, call_next):
        confirmed = await ctx.publisher.publish(payload, routing_key=f"{queue}.out")
        assert not confirmed.may_be_unrouted
        if payload == b"middleware":
            ctx.publisher.publish(payload, routing_key=f"{queue}.out")
        if payload == b"task":
            asyncio.create_task(ctx.publisher.publish(payload, routing_key=f"{queue}.missing"))
        return await call_next(payload, ctx)


    @handlers.consume(queue, cpu=True, retry=None)
    def handle(body: bytes, ctx: Context) -> None:
        if body == b"forget":
            ctx.publisher.publish(b"x", routing_key=f"{queue}.out")
        if body == b"run":
            asyncio.run(ctx.publisher.publish(b"x", routing_key=f"{queue}.out"))
"""


async def test_process_of_its_own_forgets_no_publish_either(
    broker_url: str, queue_name: str, output: str, admin: Client, tmp_path: Path
) -> None:
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name}
    bodies = [b"good", b"forget", b"run", b"middleware", b"task"]
    with Service(
        mxworker_run(write_app(tmp_path, CPU_APP), "--workers=1", app_dir=tmp_path), tmp_path, env=env
    ) as service:
        await asyncio.to_thread(service.wait_ready)
        admin.publish(queue_name, bodies)
        letters = await dead_letters(admin, queue_name, 4, SOON_S)
        assert "never awaited'" not in service.log_text()
    errors = {body: str(letter.headers["mx-error"]) for body, letter in letters.items()}
    assert {str(letter.headers["mx-error-type"]) for body, letter in letters.items() if body != "task"} == {
        "RuntimeError"
    }
    assert "use publish_sync" in errors["forget"]
    assert "use publish_sync" in errors["run"]
    assert re.search(r"ctx.publisher.publish\(...\) at .*app.py:\d+ was never awaited", errors["middleware"])
    assert letters["task"].headers["mx-error-type"] == "Unroutable"
    assert admin.counts(output).messages == len(bodies)
