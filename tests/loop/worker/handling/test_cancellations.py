"""Cancellations of a delivery's task: ours are caught by no middleware, and the application's end no settling."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mxworker import Ack, Context, Handlers, Reject, Retry
from mxworker.api.context import WorkerResources
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Bench, Channel, at_work, deliveries
from tests.harness.waiting import until

SOON_S = 60.0
FOR_EVER_S = 3600.0
SHORT_S = 0.05
SINGLE_OR_BATCH = pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])


def register(handlers: Handlers, function: Any, is_batch: bool, **options: Any) -> None:
    (handlers.consume_batch("queue", size=1, **options) if is_batch else handlers.consume("queue", **options))(function)


class Sleeper:
    """A handler that never ends by itself, and is told what to do when it is cancelled."""

    def __init__(self, at_cancellation: Callable[[], Any] | None = None) -> None:
        self.has_begun = False
        self._at_cancellation = at_cancellation

    async def handle(self, payload: Any) -> Any:
        self.has_begun = True
        try:
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            if self._at_cancellation is None:
                raise
            return self._at_cancellation()


def fail() -> None:
    raise ValueError("disturbed")


# ---- ours, caught by a middleware


async def logs_and_goes_on(payload: Any, ctx: Context, call_next: Any) -> Any:
    try:
        return await call_next(payload, ctx)
    except BaseException:
        return None


async def returns_at_last(payload: Any, ctx: Context, call_next: Any) -> Any:
    try:
        return await call_next(payload, ctx)
    finally:
        return None  # noqa: B012, SIM107


async def suppresses(payload: Any, ctx: Context, call_next: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await call_next(payload, ctx)


async def suppresses_in_another_task(payload: Any, ctx: Context, call_next: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(call_next(payload, ctx))


async def leaves_it_running(payload: Any, ctx: Context, call_next: Any) -> None:
    inner = asyncio.ensure_future(call_next(payload, ctx))
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait([inner])
    inner.cancel()


CATCHING = [logs_and_goes_on, returns_at_last, suppresses, suppresses_in_another_task, leaves_it_running]


async def cut_while(sleeper: Sleeper, bench: Bench) -> Channel:
    """Cut a delivery short while `sleeper` handles it."""
    channel = Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await until(lambda: sleeper.has_begun, SOON_S)
    bench.runner.cut_short()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert not bench.broken
    return channel


async def handled(handlers: Handlers) -> Channel:
    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert not bench.broken
    return channel


@SINGLE_OR_BATCH
@pytest.mark.parametrize("middleware", CATCHING)
@pytest.mark.parametrize("at_cancellation", [None, fail])
async def test_what_a_drain_has_cut_short_is_acked_by_no_middleware(
    middleware: Any, at_cancellation: Any, is_batch: bool
) -> None:
    handlers, sleeper = Handlers(), Sleeper(at_cancellation)
    if at_cancellation is not None:
        handlers.middleware(logs_and_goes_on)  # outside, since not each of them catches a ValueError
    handlers.middleware(middleware)
    register(handlers, sleeper.handle, is_batch)
    assert (await cut_while(sleeper, at_work(handlers))).settled == 0


@SINGLE_OR_BATCH
@pytest.mark.parametrize("middleware", CATCHING)
async def test_deadline_that_a_middleware_has_caught_is_a_timeout_all_the_same(
    middleware: Any, is_batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()
    handlers.middleware(middleware)
    register(handlers, Sleeper().handle, is_batch, timeout=SHORT_S, retry=None)
    assert (await handled(handlers)).rejected == [1]
    assert "timed out after 0.05 s" in caplog.text


async def test_outer_middleware_sees_the_cancellation_that_an_inner_one_has_caught() -> None:
    handlers, sleeper = Handlers(), Sleeper()
    seen: list[type[BaseException]] = []

    @handlers.middleware
    async def watch(payload: Any, ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(payload, ctx)
        except BaseException as error:
            seen.append(type(error))
            raise

    handlers.middleware(logs_and_goes_on)
    register(handlers, sleeper.handle, is_batch=False)
    assert (await cut_while(sleeper, at_work(handlers))).settled == 0
    assert seen == [asyncio.CancelledError]


@SINGLE_OR_BATCH
@pytest.mark.parametrize("raises", [False, True])
async def test_middleware_may_settle_what_was_cut_short_by_its_own_word(raises: bool, is_batch: bool) -> None:
    handlers, sleeper = Handlers(), Sleeper()

    @handlers.middleware
    async def settle(payload: Any, ctx: Context, call_next: Any) -> Any:
        await logs_and_goes_on(payload, ctx, call_next)
        if raises:
            raise Ack
        return Ack()

    register(handlers, sleeper.handle, is_batch)
    assert (await cut_while(sleeper, at_work(handlers))).acked == [1]


@SINGLE_OR_BATCH
async def test_handler_that_ends_normally_after_a_cut_is_acked_through_its_middleware(is_batch: bool) -> None:
    handlers, sleeper = Handlers(), Sleeper(lambda: None)
    handlers.middleware(suppresses)
    register(handlers, sleeper.handle, is_batch)
    assert (await cut_while(sleeper, at_work(handlers))).acked == [1]


@SINGLE_OR_BATCH
async def test_thread_that_ends_after_a_cut_counts_through_its_middleware(is_batch: bool) -> None:
    for error, acked in ((None, [1]), (ValueError("late"), [])):
        handlers, begun, release = Handlers(), threading.Event(), threading.Event()
        handlers.middleware(logs_and_goes_on)

        def hold(
            payload: Any, begun: threading.Event = begun, release: threading.Event = release, error: Any = error
        ) -> None:
            begun.set()
            release.wait(SOON_S)
            if error is not None:
                raise error

        register(handlers, hold, is_batch)
        bench, channel = at_work(handlers), Channel()
        bench.runner.admit(*deliveries(channel, 1, b"1"))
        await until(begun.is_set, SOON_S)
        bench.runner.cut_short()
        release.set()
        await asyncio.wait_for(bench.runner.finished(), SOON_S)
        assert channel.acked == acked
        assert channel.settled == len(acked)


async def test_time_limit_of_the_middlewares_own_is_its_own_affair() -> None:
    handlers = Handlers()

    @handlers.middleware
    async def limit(payload: Any, ctx: Context, call_next: Any) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call_next(payload, ctx), SHORT_S)

    register(handlers, Sleeper().handle, is_batch=False)
    assert (await handled(handlers)).acked == [1]


@SINGLE_OR_BATCH
async def test_failed_task_group_that_a_middleware_has_caught_is_handled(is_batch: bool) -> None:
    """In Python 3.11 and 3.12 the task then looks for ever as if it were being cancelled."""
    handlers = Handlers()
    handlers.middleware(logs_and_goes_on)

    async def disturbed() -> None:
        raise ValueError("disturbed")

    async def fail_in_a_group(payload: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(disturbed())

    register(handlers, fail_in_a_group, is_batch)
    assert (await handled(handlers)).acked == [1]


@SINGLE_OR_BATCH
async def test_cancellation_that_a_middleware_takes_back_makes_no_success_of_a_cut(is_batch: bool) -> None:
    handlers, sleeper = Handlers(), Sleeper()

    @handlers.middleware
    async def take_back(payload: Any, ctx: Context, call_next: Any) -> None:
        try:
            await call_next(payload, ctx)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    register(handlers, sleeper.handle, is_batch)
    assert (await cut_while(sleeper, at_work(handlers))).settled == 0


@SINGLE_OR_BATCH
async def test_failure_after_a_cut_is_not_acked_by_the_policy_for_failures(is_batch: bool) -> None:
    handlers, sleeper = Handlers(), Sleeper(fail)
    register(handlers, sleeper.handle, is_batch, on_error="ack")
    assert (await cut_while(sleeper, at_work(handlers))).settled == 0


# ---- the application's, while a copy is on its way


class SlowPublishing(Publishing):
    """Confirms each publish when `confirmed` is set, and says when there was one."""

    def __init__(self) -> None:
        self.confirmed, self.has_published = asyncio.Event(), asyncio.Event()
        super().__init__(self.confirmed)
        self.before_each = self.has_published.set
        self.late: asyncio.Task[None] | None = None
        """Cancels a task some turns after the publish."""


def at_once(task: asyncio.Task[Any], publishing: SlowPublishing) -> None:
    """Leave a cancellation that arrives at the next await."""
    task.cancel()


def in_the_next_turn(task: asyncio.Task[Any], publishing: SlowPublishing) -> None:
    asyncio.get_running_loop().call_soon(task.cancel)


def while_the_confirm_is_awaited(task: asyncio.Task[Any], publishing: SlowPublishing) -> None:
    async def cancel_late() -> None:
        await publishing.has_published.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)

    publishing.late = asyncio.ensure_future(cancel_late())


def copying_bench(handlers: Handlers, publishing: Publishing) -> Bench:
    anything: Any = publishing
    return at_work(handlers, resources=WorkerResources(anything, anything, anything), rng=Hasty())


def leaves_a_cancellation(leave: Callable[..., None], outcome: Any, publishing: SlowPublishing) -> Callable[..., Any]:
    async def handle(payload: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        leave(task, publishing)
        raise outcome

    return handle


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@SINGLE_OR_BATCH
@pytest.mark.parametrize("leave", [at_once, in_the_next_turn, while_the_confirm_is_awaited])
@pytest.mark.parametrize(("outcome", "queue"), [(Reject("mine"), "queue.dlq"), (Retry(), "queue.retry.1000")])
async def test_cancellation_that_a_handler_leaves_behind_makes_no_second_copy(
    outcome: Any, queue: str, leave: Any, is_batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handlers, publishing = Handlers(), SlowPublishing()
    register(handlers, leaves_a_cancellation(leave, outcome, publishing), is_batch)
    bench, channel = copying_bench(handlers, publishing), Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await until(publishing.has_published.is_set, SOON_S)
    await turns()
    assert channel.settled == 0, "the copy is not confirmed yet"
    publishing.confirmed.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert [name for _, name in publishing.published] == [queue]
    assert channel.acked == [1]
    assert channel.settled == 1
    assert "could not be settled" not in caplog.text
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)


@SINGLE_OR_BATCH
async def test_cancellation_that_comes_late_makes_no_second_copy_in_a_rescue(is_batch: bool) -> None:
    handlers, publishing = Handlers(), SlowPublishing()

    async def succeed(payload: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        while_the_confirm_is_awaited(task, publishing)

    register(handlers, succeed, is_batch)
    bench, channel = copying_bench(handlers, publishing), BrokenOnce()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await until(publishing.has_published.is_set, SOON_S)
    await turns()
    publishing.confirmed.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert [name for _, name in publishing.published] == ["queue.dlq"]
    assert (channel.acked, channel.settled) == ([1], 1)


class BrokenOnce(Channel):
    """Its first ack fails."""

    def __init__(self) -> None:
        super().__init__()
        self._is_broken = True

    def ack(self, delivery: Any) -> bool:
        if self._is_broken:
            self._is_broken = False
            raise RuntimeError("a bug")
        return super().ack(delivery)


@SINGLE_OR_BATCH
async def test_cut_ends_the_settling_of_what_was_cancelled_before(is_batch: bool) -> None:
    handlers, publishing = Handlers(), SlowPublishing()
    register(handlers, leaves_a_cancellation(at_once, Reject("mine"), publishing), is_batch)
    bench, channel = copying_bench(handlers, publishing), Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await until(publishing.has_published.is_set, SOON_S)
    bench.runner.cut_short()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.settled == 0
    assert len(publishing.published) == 1
    assert not bench.broken
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)


@SINGLE_OR_BATCH
async def test_publisher_that_means_to_leave_costs_its_own_message(is_batch: bool) -> None:
    handlers = Handlers()
    outcome: Any = SystemExit(3)
    leaving = Publishing(outcome)

    async def refuse(payload: Any) -> None:
        raise Reject("mine")

    register(handlers, refuse, is_batch)
    bench, channel = copying_bench(handlers, leaving), Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.given_back == [1]
    assert not bench.broken
