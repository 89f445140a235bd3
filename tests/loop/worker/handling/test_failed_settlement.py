"""Whatever a handler gives as a reason, raises, or breaks around it: it costs its own message, never the worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mxworker import Ack, CircuitBreaker, Context, Delivery, Handlers, Queue, Reject, Requeue, Retry
from mxworker.api.circuit_breaker import Breaker
from mxworker.api.context import WorkerResources
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import InvariantError
from mxworker.worker.handling import settling
from mxworker.worker.handling.unsent import TURNS
from tests.harness.copied import properties_on_wire, received
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Bench, Channel, at_work, deliveries
from tests.harness.silent import Mute, Silent
from tests.harness.waiting import until

SOON_S = 10.0
KINDS = ["async", "def", "batch", "batch def"]


class Closed(Exception):
    """Has nothing that can be looked at: neither a traceback nor a class."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyboardInterrupt(name)


class OddText(str):
    def __str__(self) -> str:
        raise KeyError

    def encode(self, *_: Any) -> bytes:
        raise KeyError


class OwnReject(Reject):
    """Does not call the constructor of what it is."""

    def __init__(self, order: object) -> None:
        self.order = order


class OwnReason(Reject):
    @property
    def reason(self) -> str:  # type: ignore[override]
        raise LookupError("no reason")

    @reason.setter
    def reason(self, value: str) -> None: ...


REASONS: dict[str, object] = {
    "an exception": ValueError("no"),
    "None": None,
    "bytes": b"no\xff\0",
    "a number": 42,
    "an integer too long to be shown": 10**5000,
    "huge": "x" * 5_000_000,
    "control characters": "a\nb\x1b[31m\u2028",
    "a lone surrogate": "\ud800",
    "a str with methods of its own": OddText("no"),
    "no text": Silent(RuntimeError("mute")),
    "no text, and means to leave": Silent(SystemExit(3)),
    "no text, and means to close": Silent(GeneratorExit()),
    "an exception without a text": Mute(),
    "a list of such": [Mute()],
}


def raising(kind: str, error: Callable[[], BaseException], **how: Any) -> Handlers:
    """Return a handler of a kind that raises."""
    handlers = Handlers()

    async def fail(payload: Any) -> None:
        raise error()

    def fail_in_thread(payload: Any) -> None:
        raise error()

    function = fail_in_thread if kind.endswith("def") else fail
    if kind.startswith("batch"):
        handlers.consume_batch("queue", size=1, **how)(function)
    else:
        handlers.consume("queue", **how)(function)
    return handlers


async def handled(handlers: Handlers, channel: Channel | None = None, publishing: Publishing | None = None) -> Channel:
    """Have two deliveries handled to the end, by the only handler; the worker is whole afterwards."""
    channel = channel or Channel()
    bench = at_work(handlers, resources=equipped(publishing), rng=Hasty())
    await take(bench, deliveries(channel, 2, b"1"))
    return channel


async def take(bench: Bench, given: list[Delivery]) -> None:
    for delivery in given:
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.is_idle, SOON_S)
    assert not bench.broken
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)


def equipped(publishing: Publishing | None) -> WorkerResources | None:
    anything: Any = publishing
    return None if publishing is None else WorkerResources(anything, anything, anything)


# ---- what is given as a reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", REASONS)
async def test_reason_may_be_anything(kind: str, why: str) -> None:
    reason = REASONS[why]
    for outcome in (lambda: Reject(reason), lambda: Retry(reason=reason)):
        publishing = Publishing(None)
        channel = await handled(raising(kind, outcome, retry=None), publishing=publishing)
        assert sorted(channel.acked) == [1, 2]
        assert [queue for _, queue in publishing.published] == ["queue.dlq"] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [Mute, lambda: ValueError(*[Mute()]), lambda: ExceptionGroup("g", [Mute()])])
async def test_exception_without_a_text_is_a_failure_as_any_other(
    kind: str, error: Callable[[], BaseException]
) -> None:
    publishing = Publishing(None)
    assert sorted((await handled(raising(kind, error, retry=None), publishing=publishing)).acked) == [1, 2]
    assert [queue for _, queue in publishing.published] == ["queue.dlq"] * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_exception_that_cannot_be_looked_at_is_a_failure_as_any_other(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    publishing = Publishing(None)
    assert sorted((await handled(raising(kind, Closed, retry=None), publishing=publishing)).acked) == [1, 2]
    assert mx_error(publishing) == "(its text cannot be shown)"
    assert received(properties_on_wire(publishing.published[0][0])).headers["mx-reason"] == "failed"
    assert "Closed" in caplog.messages[0]


@pytest.mark.parametrize("outcome", [lambda: OwnReject(7), lambda: OwnReason("x")])
async def test_settlement_of_the_applications_own_making_costs_no_more_than_its_message(
    outcome: Callable[[], BaseException],
) -> None:
    assert (await handled(raising("async", outcome, retry=None))).rejected == [1, 2]


async def test_reason_that_was_replaced_later_is_made_text_too() -> None:
    def outcome() -> Reject:
        settlement = Reject()
        settlement.reason = ValueError("no")  # type: ignore[assignment]
        return settlement

    publishing = Publishing(None)
    await handled(raising("async", outcome), publishing=publishing)
    assert mx_error(publishing) == "ValueError: no"


async def test_exception_as_a_reason_is_told_with_its_type() -> None:
    publishing = Publishing(None)
    await handled(raising("async", lambda: Reject(ValueError("no"))), publishing=publishing)
    assert mx_error(publishing) == "ValueError: no"


def mx_error(publishing: Publishing) -> object:
    copy, _ = publishing.published[0]
    return received(properties_on_wire(copy)).headers["mx-error"]


# ---- what closes the coroutines that were to settle it


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [GeneratorExit, StopIteration, StopAsyncIteration, KeyboardInterrupt, SystemExit])
async def test_exception_that_means_something_to_the_machinery_is_a_failure(
    kind: str, error: Callable[[], BaseException]
) -> None:
    assert (await handled(raising(kind, error, retry=None))).rejected == [1, 2]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("through_middleware", [False, True])
async def test_generator_exit_out_of_what_was_awaited_is_a_failure(
    is_batch: bool, through_middleware: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Handlers()

    async def fail(payload: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, GeneratorExit())
        await future

    if through_middleware:

        @handlers.middleware
        async def around(payload: Any, ctx: Context, call_next: Any) -> Any:
            return await call_next(payload, ctx)

    (handlers.consume_batch("queue", size=2) if is_batch else handlers.consume("queue"))(fail)
    publishing = Publishing(None)
    assert sorted((await handled(handlers, publishing=publishing)).acked) == [1, 2]
    assert {queue for _, queue in publishing.published} <= {"queue.retry.1000", "queue.retry.5000"}
    assert len(publishing.published) == 2
    assert "failed on message" in caplog.text
    assert "GeneratorExit" in caplog.text


# ---- what fails in the settling itself


BROKEN = InvariantError("settled twice")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("of", "comes_to"),
    [
        (["ack"], "rejected"),
        (["ack", "reject"], "given_back"),
        (["ack", "reject", "give_back"], "given_up"),
    ],
)
async def test_settlement_that_fails_costs_its_own_message(
    kind: str, of: list[str], comes_to: str, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = raising(kind, Ack)
    bench = at_work(handlers, rng=Hasty())
    channel, whole = Channel(BROKEN, of=of), Channel()
    await take(bench, [*deliveries(channel, 1, b"1"), *deliveries(whole, 2, b"1")])
    assert len(getattr(channel, comes_to)) == 1
    assert sorted(whole.acked) == [1, 2]
    (line,) = [record for record in caplog.records if "InvariantError" in record.getMessage()][:1]
    assert line.levelno == logging.ERROR
    assert line.exc_info is not None, "a fault of ours has its traceback"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["ending", "retry_copy", "attempt_of"])
async def test_fault_of_ours_in_any_part_of_it_ends_no_worker(
    kind: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(settling, part, fail)
    channel = await handled(raising(kind, Retry), publishing=Publishing(None))
    if part == "attempt_of":  # without which there are no facts either
        assert channel.given_back == [1, 2]
    else:
        assert sorted(channel.acked) == [1, 2], "it is a dead letter with the facts"


async def test_one_of_a_batch_that_cannot_be_copied_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = settling.retry_copy

    def fail_on_the_second(delivery: Delivery, attempt: int) -> Any:
        if delivery.delivery_tag == 2:
            raise RuntimeError("a bug of ours")
        return whole(delivery, attempt)

    monkeypatch.setattr(settling, "retry_copy", fail_on_the_second)
    handlers = Handlers()

    @handlers.consume_batch("queue", size=4)
    async def take_all(bodies: list[str]) -> Any:
        return [None, Retry(), Retry(), Requeue()]

    confirmed = asyncio.Event()
    publishing, channel = Publishing(confirmed), Channel()
    bench = at_work(handlers, resources=equipped(publishing), rng=Hasty())
    for delivery in deliveries(channel, 4, b"1"):
        bench.runner.admit(delivery)
    await until(lambda: len(publishing.published) >= 3, SOON_S)
    for _ in range(10):  # what was on its way is not begun anew
        await asyncio.sleep(0)
    confirmed.set()
    await take(bench, [])
    assert sorted(channel.acked) == [1, 2, 3, 4]
    dead, again, later = sorted(queue for _, queue in publishing.published)
    assert (dead, again, later[:12]) == ("queue", "queue.dlq", "queue.retry.")


@pytest.mark.parametrize("outcome", [Ack, None])
async def test_one_of_a_batch_that_cannot_be_settled_costs_the_others_nothing(outcome: Any) -> None:
    handlers = Handlers()

    @handlers.consume_batch("queue", size=4)
    async def take_all(bodies: list[str]) -> Any:
        return [outcome] * 4

    broken, whole = Channel(BROKEN), Channel()
    first, *others = deliveries(whole, 4, b"1")
    (second,) = deliveries(broken, 1, b"1")
    await take(at_work(handlers, rng=Hasty()), [first, second, *others[:2]])
    assert whole.acked == [1, 2, 3]
    assert broken.rejected == [1]


async def test_without_a_dead_letter_queue_what_cannot_be_settled_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Handlers()

    @handlers.consume(Queue("queue", dead_letter=False))
    async def take(body: bytes) -> None: ...

    assert (await handled(handlers, Channel(BROKEN))).given_back == [1, 2]


async def test_stale_one_that_cannot_be_settled_is_left_to_the_broker() -> None:
    handlers = Handlers()

    @handlers.consume("queue")
    async def take(body: bytes, ctx: Context) -> None:
        channel.is_lost = True

    channel = Channel(BROKEN)
    publishing = Publishing(None)
    bench = at_work(handlers, resources=equipped(publishing), rng=Hasty())
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert not publishing.published
    assert bench.count(Outcome.STALE) == 1


async def test_cut_leaves_unsettled_what_waits_for_its_rescue() -> None:
    class Waiting(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 3600.0

    handlers = Handlers()

    @handlers.consume(Queue("queue", dead_letter=False))
    async def take(body: bytes) -> None: ...

    bench, channel = at_work(handlers, rng=Waiting()), Channel(BROKEN)
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await until(lambda: bench.runner.running == 1, SOON_S)
    await until(lambda: bench.slot.told.in_flight_count == 1, SOON_S, "the place of its run to be free")
    for _ in range(2 * TURNS):
        await asyncio.sleep(0)
    assert bench.slot.told.in_flight_count == 1, "it is not settled yet"
    bench.runner.cut_short()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.settled == 0
    assert not bench.broken
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)


# ---- what fails beside it

MODULES_THAT_LOG = ("delivery_log", "settling", "report", "handler_runner")


@pytest.fixture
def breaking_logs() -> Iterator[None]:
    """Have each line of mxworker's raise, as a filter of the application's may."""

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter with a bug")

    loggers = [logging.getLogger(f"mxworker.worker.handling.{name}") for name in MODULES_THAT_LOG]
    for logger in loggers:
        logger.addFilter(refuse)
    yield
    for logger in loggers:
        logger.removeFilter(refuse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("breaking_logs")
async def test_log_call_that_raises_changes_nothing(kind: str) -> None:
    for outcome, way in ((ValueError, "given_back"), (Reject, "rejected"), (lambda: Retry(3600), "given_back")):
        channel = await handled(raising(kind, outcome))
        assert getattr(channel, way) == [1, 2]


@pytest.mark.usefixtures("breaking_logs")
async def test_report_that_raises_leaves_nobody_without_a_deadline() -> None:
    handlers = Handlers()
    release = asyncio.Event()

    @handlers.consume("queue", timeout=0.02, retry=None)
    async def take_it(payload: Any, ctx: Context) -> None:
        while ctx.delivery.delivery_tag == 1 and not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        if not release.is_set():
            await asyncio.sleep(3600)

    def fail() -> None:
        raise RuntimeError("a bug of ours")

    bench, channel = at_work(handlers, grace_s=0.02), Channel()
    object.__setattr__(bench.runner._process, "on_stuck", fail)
    first, second = deliveries(channel, 2, b"1")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    bench.runner.admit(first)
    await until(lambda: bench.runner.stuck == 1, SOON_S)
    bench.runner.admit(second)
    await until(lambda: channel.rejected == [2], SOON_S)
    release.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)


async def test_circuit_breaker_that_fails_takes_nothing_from_the_delivery(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Breaker, "succeeded", fail)
    handlers = Handlers()

    @handlers.consume("queue", circuit_breaker=CircuitBreaker())
    async def take_it(body: bytes) -> None: ...

    bench, channel = at_work(handlers), Channel()
    bench.runner.breaker.steer(lambda _: None, lambda _: None, lambda _: None)
    await take(bench, deliveries(channel, 40, b"1"))
    assert len(channel.acked) == 40
    assert 1 <= caplog.text.count("the circuit breaker of queue queue failed") <= 10


# ---- on record until it is settled


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("outcome", [Reject, Retry])
async def test_message_is_on_record_while_its_copy_is_on_its_way(is_batch: bool, outcome: Callable[[], Any]) -> None:
    handlers = Handlers()

    async def refuse(payload: Any) -> Any:
        return [outcome(), None] if is_batch else outcome()

    (handlers.consume_batch("queue", size=2) if is_batch else handlers.consume("queue"))(refuse)
    confirmed = asyncio.Event()
    publishing = Publishing(confirmed)
    bench, channel = at_work(handlers, resources=equipped(publishing)), Channel()
    given = deliveries(channel, 2 if is_batch else 1, b"1")
    for delivery in given:
        bench.runner.admit(delivery)
    await until(lambda: bool(publishing.published), SOON_S)
    assert [on_record.delivery_tag for on_record in bench.slot.told.in_flight()] == [1]
    confirmed.set()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.settled == len(given)
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)


@pytest.mark.parametrize("is_batch", [False, True])
async def test_what_is_cut_while_its_copy_is_on_its_way_leaves_the_record_unsettled(is_batch: bool) -> None:
    handlers = raising("batch" if is_batch else "async", Reject)
    publishing = Publishing(asyncio.Event())
    bench, channel = at_work(handlers, resources=equipped(publishing)), Channel()
    bench.runner.admit(*deliveries(channel, 1, b"1"))
    await until(lambda: bool(publishing.published), SOON_S)
    bench.runner.cut_short()
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert channel.settled == 0
    assert not bench.broken
    await until(lambda: bench.slot.told.in_flight_count == 0, SOON_S)
