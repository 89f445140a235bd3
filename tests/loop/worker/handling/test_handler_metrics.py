"""What a handler's deliveries leave among the metrics of the slot: outcomes, failures, times, ages and what runs."""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import replace
from typing import Any

import pytest

from mxworker import Ack, Delivery, Handlers, Reject, Requeue, Retry
from mxworker.api.handlers import compile_handlers
from mxworker.board.metric_values import ConsumerMetrics, Histogram
from mxworker.board.metrics import fold
from mxworker.board.metrics_layout import ROWS, RowSeconds
from mxworker.worker.handling.handler_metrics import HandlerMetrics
from tests.harness.runners import Bench, Channel, at_work, deliveries
from tests.harness.waiting import until
from tests.rabbit.raw import raw_properties


class OneSlot:
    """A board with one slot."""

    def __init__(self, bench: Bench) -> None:
        self.used = [bench.slot]


def metrics_of(bench: Bench, handler: str | None = None) -> ConsumerMetrics:
    """Return the metrics of one handler, with what is written once a second."""
    for runner in bench.runners:
        assert runner.metrics is not None
        runner.metrics.write(runner.running_s, has_received=True)
    consumers = fold(OneSlot(bench)).consumers
    return next(each for each in consumers if handler in (None, each.handler))


def told(bench: Bench) -> dict[str, int]:
    return {name: count for name, count in metrics_of(bench).outcomes.items() if count}


async def settled(bench: Bench) -> None:
    await until(lambda: bench.runner.is_idle, 10)


# ---- outcomes and failures


def raising(error: BaseException) -> Any:
    async def handler(payload: dict[str, Any]) -> None:
        raise error

    return handler


@pytest.mark.parametrize(
    ("outcome", "counted", "failures"),
    [
        (Ack(), {"ack": 1}, {}),
        (Reject("no"), {"reject": 1}, {}),
        (Requeue(), {"requeue": 1}, {}),
        (Retry(), {"requeue": 1}, {}),  # without a publisher it goes back
        (ValueError("no"), {"requeue": 1}, {"ValueError": 1}),
        (ExceptionGroup("no", [KeyError(1)]), {"requeue": 1}, {"ExceptionGroup": 1}),
    ],
)
async def test_each_outcome_is_counted_once_and_failures_by_type_beside_it(
    outcome: BaseException, counted: dict[str, int], failures: dict[str, int]
) -> None:
    handlers = Handlers()
    handlers.consume("orders")(raising(outcome))
    bench = at_work(handlers)
    bench.runner.admit(deliveries(Channel(), 1, b"{}")[0])
    await settled(bench)
    assert told(bench) == counted
    assert metrics_of(bench).failures == failures


async def test_a_body_that_cannot_be_decoded_is_no_rejection_of_the_handler() -> None:
    handlers = Handlers()
    handlers.consume("orders")(raising(ValueError()))
    bench = at_work(handlers)
    bench.runner.admit(deliveries(Channel(), 1, b"not json")[0])
    await settled(bench)
    assert told(bench) == {"decode_error": 1}
    assert metrics_of(bench).failures == {"DecodeError": 1}


@pytest.mark.parametrize("on_error", ["retry", "reject", "requeue", "ack"])
async def test_a_timeout_is_counted_as_one_whatever_becomes_of_the_delivery(on_error: Any) -> None:
    handlers = Handlers()

    @handlers.consume("orders", timeout=0.05, on_error=on_error)
    async def slow(body: bytes) -> None:
        await asyncio.sleep(60)

    bench = at_work(handlers)
    bench.runner.admit(deliveries(Channel(), 1)[0])
    await settled(bench)
    assert told(bench) == {"timeout": 1}
    assert metrics_of(bench).failures == {"timeout": 1}


async def test_what_is_settled_on_a_lost_channel_is_stale() -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def lose(payload: dict[str, Any]) -> None:
        channel.is_lost = True

    bench, channel = at_work(handlers), Channel()
    bench.runner.admit(deliveries(channel, 1, b"{}")[0])
    await settled(bench)
    assert told(bench) == {"stale": 1}


async def test_each_delivery_of_a_batch_has_its_outcome_and_the_batch_one_run() -> None:
    handlers = Handlers()

    @handlers.consume_batch("orders", size=4, wait=60)
    async def batch(payloads: list[dict[str, Any]]) -> list[Any]:
        return [None, Reject("no"), ValueError("no")]

    bench, channel = at_work(handlers), Channel()
    bodies = (b"{}", b"no", b"{}", b"{}")
    for tag, body in enumerate(bodies, 1):
        bench.runner.admit(Delivery(body, b"\0\0", b"\0\0", False, tag, channel))
    await settled(bench)
    metrics = metrics_of(bench)
    assert told(bench) == {"ack": 1, "reject": 1, "requeue": 1, "decode_error": 1}
    assert metrics.failures == {"DecodeError": 1, "ValueError": 1}
    assert (metrics.duration.count, metrics.wait.count, metrics.in_flight) == (1, 4, 0)
    assert metrics.bytes_received == 8


# ---- what runs now


@pytest.mark.parametrize("batch", [False, True])
async def test_in_flight_is_true_at_any_concurrency(batch: bool) -> None:
    handlers, gate, begun = Handlers(), asyncio.Event(), 0

    async def hold(payload: Any) -> None:
        nonlocal begun
        begun += len(payload) if batch else 1
        if begun > 400:
            await gate.wait()

    if batch:
        handlers.consume_batch("orders", size=10, wait=60, concurrency=100, prefetch=2000)(hold)
    else:
        handlers.consume("orders", concurrency=1000, prefetch=2000)(hold)
    bench = at_work(handlers, process_concurrency=1000)
    for delivery in deliveries(Channel(), 1400, b"{}"):
        bench.runner.admit(delivery)
    await until(lambda: bench.runner.metrics is not None and begun == 1400, 30)
    (metrics,) = fold(OneSlot(bench)).consumers
    assert metrics.in_flight == 1000
    assert bench.slot.told.in_flight_count == 1000
    gate.set()
    await settled(bench)
    await until(lambda: bench.slot.told.in_flight_count == 0)
    assert metrics_of(bench).in_flight == 0


async def test_busy_time_grows_while_a_handler_runs_and_never_falls() -> None:
    handlers, gate = Handlers(), asyncio.Event()

    @handlers.consume("orders")
    async def hold(body: bytes) -> None:
        await gate.wait()

    bench = at_work(handlers)
    looks = []
    for delivery in deliveries(Channel(), 2):
        bench.runner.admit(delivery)
    for _ in range(3):
        await asyncio.sleep(0.02)
        looks.append(metrics_of(bench).busy_s)
    gate.set()
    await settled(bench)
    looks += [metrics_of(bench).busy_s, metrics_of(bench).busy_s]
    assert looks == sorted(looks)
    assert looks[0] >= 0.03
    assert looks[-1] == pytest.approx(metrics_of(bench).duration.sum_s, rel=0.5)


# ---- times


async def test_a_delivery_that_waits_for_a_place_is_counted_with_its_wait() -> None:
    handlers, gate = Handlers(), asyncio.Event()

    @handlers.consume("orders", concurrency=1)
    async def hold(body: bytes) -> None:
        await gate.wait()

    bench, channel = at_work(handlers), Channel()
    now = time.monotonic()
    for tag in (1, 2):
        bench.runner.admit(Delivery(b"", b"\0\0", b"\0\0", False, tag, channel, now))
    await asyncio.sleep(0.06)
    gate.set()
    await settled(bench)
    wait = metrics_of(bench).wait
    assert wait.count == 2
    assert wait.sum_s >= 0.06
    assert sum(wait.counts[5:]) >= 1


def timestamp(seconds: float) -> bytes:
    return struct.pack(">Q", int(seconds))


def in_ms(seconds: float) -> bytes:
    entry = b"\x0ftimestamp_in_msl" + struct.pack(">q", int(seconds * 1000))
    return struct.pack(">I", len(entry)) + entry


@pytest.mark.parametrize(
    ("properties", "has_age"),
    [
        (lambda now: raw_properties(timestamp=timestamp(now - 20)), True),
        (lambda now: raw_properties(message_id=b"m", content_type=b"x", timestamp=timestamp(now - 20)), True),
        (lambda now: raw_properties(message_id=b"m", timestamp=timestamp(now - 20), app_id=b"shop"), True),
        (lambda now: raw_properties(headers=in_ms(now - 20)), True),
        (lambda now: raw_properties(headers=in_ms(now - 20), timestamp=timestamp(now - 4000)), True),
        (lambda now: raw_properties(headers=b"\0\0\0\0", timestamp=timestamp(now - 20)), True),
        (lambda now: raw_properties(timestamp=timestamp(now * 1000)), False),
        (lambda now: raw_properties(timestamp=timestamp(0)), False),
        (lambda now: raw_properties(timestamp=b"\0"), False),
        (lambda now: raw_properties(headers=in_ms(now)[:-5]), False),
        (lambda now: raw_properties(message_id=b"m"), False),
        (lambda now: b"\x20", False),
        (lambda now: b"", False),
    ],
)
async def test_age_and_the_time_to_success_count_from_the_first_publish(properties: Any, has_age: bool) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def take(delivery: Delivery) -> None: ...

    bench = at_work(handlers)
    raw = properties(time.time())
    bench.runner.admit(Delivery(b"", raw, b"\0\0", False, 1, Channel()))
    await settled(bench)
    metrics = metrics_of(bench)
    assert metrics.wait.count == 1
    assert metrics.age.count == has_age
    if has_age:
        assert 19 <= metrics.age.sum_s < 40
        assert metrics.end_to_end.count == metrics.outcomes["ack"] == 1
        assert metrics.end_to_end.sum_s >= metrics.age.sum_s - 0.01


async def test_only_an_ack_is_a_success() -> None:
    handlers = Handlers()
    handlers.consume("orders")(raising(ValueError()))
    bench = at_work(handlers)
    bench.runner.admit(Delivery(b"{}", raw_properties(timestamp=timestamp(time.time())), b"\0\0", False, 1, Channel()))
    await settled(bench)
    assert (metrics_of(bench).age.count, metrics_of(bench).end_to_end) == (1, Histogram())


async def test_redelivered_messages_and_bytes_are_counted() -> None:
    handlers = Handlers()
    handlers.consume("orders")(raising(Ack()))
    bench, channel = at_work(handlers), Channel()
    for tag in (1, 2, 3):
        bench.runner.admit(Delivery(b"{}", b"\0\0", b"\0\0", tag == 2, tag, channel))
    await settled(bench)
    metrics = metrics_of(bench)
    assert (metrics.redelivered, metrics.bytes_received) == (1, 6)
    assert metrics.last_delivery_unix_s == pytest.approx(time.time(), abs=60)


# ---- more handlers than rows


async def test_handlers_that_share_a_row_do_not_lose_each_others_counts() -> None:
    handlers = Handlers()
    handlers.consume("orders")(raising(Ack()))
    (handler,) = compile_handlers(handlers)
    made = [replace(handler, name=f"handler-{number:02}") for number in range(ROWS + 2)]
    bench = at_work(made)
    for runner in bench.runners:
        channel = Channel()
        for delivery in deliveries(channel, 3, b"{}"):
            runner.admit(delivery)
    await until(lambda: all(runner.is_idle for runner in bench.runners), 10)
    other, own = metrics_of(bench, "other"), metrics_of(bench, "handler-00")
    assert (own.outcomes["ack"], own.duration.count, own.wait.count) == (3, 3, 3)
    assert (other.outcomes["ack"], other.duration.count, other.wait.count) == (6, 6, 6)
    assert other.bytes_received == 12


async def test_a_later_process_adds_to_what_its_slot_has() -> None:
    handlers = Handlers()
    handlers.consume("orders")(raising(Ack()))
    bench = at_work(handlers)
    bench.runner.admit(deliveries(Channel(), 1, b"{}")[0])
    await settled(bench)
    before = metrics_of(bench)
    bench.slot.prepare(2, False, 1)
    (handler,) = compile_handlers(handlers)
    row = bench.slot.rows.consumer("orders", "handler")
    row.seconds[RowSeconds.BUSY] = before.busy_s + 5  # of runs that the death of the process cut short
    later = HandlerMetrics(handler, row)
    later.begin(deliveries(Channel(), 1)[0], time.monotonic(), 1)
    later.end_run(time.monotonic() - 0.002)
    later.write(0.0, has_received=False)
    (after,) = fold(OneSlot(bench)).consumers
    assert (after.wait.count, after.duration.count) == (2, 2)
    assert after.duration.sum_s >= before.duration.sum_s + 0.002
    assert after.busy_s >= before.busy_s + 5.002
