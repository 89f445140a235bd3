"""The facts of a message on the application's own log lines, wherever its handler logs them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mxworker import CallNext, Context, Delivery, Handlers, MessageFacts
from mxworker.amqp.publishing.unawaited import unawaited
from mxworker.system.log import LineHandler
from mxworker.system.log_formats import JsonFormatter, TextFormatter
from mxworker.worker.handling.message_facts import message_facts
from tests.harness.runners import Channel, at_work
from tests.harness.waiting import until
from tests.rabbit.raw import raw_properties

SOON_S = 10.0
log = logging.getLogger("shop.orders")
FACTS = {"queue": "orders", "handler": "order", "message_id": "m-1", "correlation_id": "c-1", "attempt": 1, "worker": 1}


def delivery(message_id: bytes = b"m-1", tag: int = 1, **properties: bytes) -> Delivery:
    raw = raw_properties(message_id=message_id, **{"correlation_id": b"c-1", **properties})
    return Delivery(b"1", raw, b"\0\0", False, tag, Channel())


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[dict[str, io.StringIO]]:
    """Collect the log as it is written, in both styles."""
    written = {"text": io.StringIO(), "json": io.StringIO()}
    handlers = []
    for style, formatter in (("text", TextFormatter(message_facts)), ("json", JsonFormatter(message_facts))):
        handler = logging.StreamHandler(written[style])
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
        handlers.append(handler)
    caplog.set_level(logging.INFO)
    yield written
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


def records(lines: dict[str, io.StringIO]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines["json"].getvalue().splitlines()]


async def handled(handlers: Handlers, *given: Delivery) -> None:
    bench = at_work(handlers)
    for each in given:
        bench.runner.admit(each)
    await until(lambda: bench.runner.is_idle, SOON_S)
    assert not bench.broken


async def in_the_loop(payload: Any) -> None:
    log.info("charged")


async def in_a_task(payload: Any) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(in_the_loop(payload))


async def in_another_thread(payload: Any) -> None:
    await asyncio.to_thread(log.info, "charged")


async def in_a_callback(payload: Any) -> None:
    asyncio.get_running_loop().call_soon(log.info, "charged")
    await asyncio.sleep(0)


async def by_the_context(payload: Any, ctx: Context) -> None:
    ctx.log.info("charged")


def in_a_thread(payload: Any) -> None:
    log.info("charged")


WAYS = [in_the_loop, in_a_task, in_another_thread, in_a_callback, by_the_context, in_a_thread]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_line_of_a_handler_has_the_facts_of_its_message(way: Any, lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()
    handlers.consume("orders")(way)
    await handled(handlers, delivery())
    (record,) = records(lines)
    assert record.items() >= {"message": "charged", **FACTS, "handler": way.__name__}.items()
    shown = f"[queue=orders handler={way.__name__} message_id=m-1 correlation_id=c-1 attempt=1 worker=1]"
    assert lines["text"].getvalue().endswith(f"  charged  {shown}\n")


async def test_line_of_a_middleware_has_them_too(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.middleware
    async def audit(payload: Any, ctx: Context, call_next: CallNext) -> Any:
        log.info("before")
        return await call_next(payload, ctx)

    handlers.consume("orders")(in_the_loop)
    await handled(handlers, delivery())
    assert [record["message_id"] for record in records(lines)] == ["m-1", "m-1"]


async def test_handlers_that_run_at_once_have_each_their_own(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()
    begun: list[Any] = []

    @handlers.consume("orders", concurrency=3)
    async def order(payload: Any, ctx: Context) -> None:
        begun.append(payload)
        await until(lambda: len(begun) == 3, SOON_S)
        log.info("%s", ctx.delivery.message_id)

    await handled(handlers, *(delivery(b"m-%d" % tag, tag) for tag in range(3)))
    said = records(lines)
    assert sorted(record["message_id"] for record in said) == ["m-0", "m-1", "m-2"]
    assert all(record["message"] == record["message_id"] for record in said)


async def test_line_of_a_batch_has_the_facts_of_the_batch(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.consume_batch("orders", size=12)
    async def order(payloads: list[Any], ctx: Context) -> None:
        log.info("stored")
        ctx.log.info("stored")

    await handled(handlers, *(delivery(b"m-%d" % tag, tag) for tag in range(12)))
    ids = [f"m-{tag}" for tag in range(10)]
    expected = {"queue": "orders", "handler": "order", "messages": 12, "message_ids": ids, "worker": 1}
    for record in records(lines):
        assert record.items() >= expected.items()
        assert not record.keys() & {"message_id", "correlation_id", "attempt"}
    assert len(records(lines)) == 2
    assert (
        f'[queue=orders handler=order messages=12 message_ids="{",".join(ids)}" worker=1]' in lines["text"].getvalue()
    )


async def test_line_of_a_batch_of_one_has_the_facts_of_its_message(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.consume_batch("orders", wait=0.001)
    async def order(payloads: list[Any], ctx: Context) -> None:
        log.info("stored")
        ctx.log.info("stored")

    await handled(handlers, delivery())
    assert [record.items() >= FACTS.items() for record in records(lines)] == [True, True]


async def test_attempt_is_that_of_the_execution(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()
    handlers.consume("orders")(in_the_loop)
    again = delivery()
    again.executed = 2
    await handled(handlers, again)
    assert records(lines)[0]["attempt"] == 3


async def test_message_without_ids_is_named_by_what_is_known(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()
    handlers.consume("orders")(in_the_loop)
    await handled(handlers, Delivery(b"1", b"\0\0", b"\0\0", False, 7, Channel()))
    (record,) = records(lines)
    assert record["message_id"] is None
    assert record["correlation_id"] is None
    assert "[queue=orders handler=in_the_loop attempt=1 worker=1]" in lines["text"].getvalue()


async def test_task_that_outlives_its_handler_has_no_facts_and_keeps_no_message(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()
    is_over = asyncio.Event()

    async def later() -> None:
        await is_over.wait()
        log.info("later")
        running = unawaited.get()
        assert running is not None
        assert running._handled is None

    tasks: list[asyncio.Task[None]] = []

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(0)

    await handled(handlers, delivery())
    is_over.set()
    await asyncio.wait_for(tasks[0], SOON_S)
    (record,) = records(lines)
    assert "message_id" not in record
    assert lines["text"].getvalue().endswith("  later\n")


async def test_line_outside_a_handler_has_none(lines: dict[str, io.StringIO]) -> None:
    log.info("idle")
    assert not records(lines)[0].keys() & FACTS.keys()


@pytest.mark.parametrize("name", ["mxworker.worker.drain", "mxworker", "asyncio", "asyncio.tasks"])
async def test_line_that_is_not_the_application_s_has_none(name: str, lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        logging.getLogger(name).warning("something else")

    await handled(handlers, delivery())
    assert not records(lines)[0].keys() & FACTS.keys()


async def test_what_the_application_adds_to_its_line_wins(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        log.info("charged", extra={"queue": "mine", "attempt": "first"})

    await handled(handlers, delivery())
    assert records(lines)[0].items() >= {"queue": "mine", "attempt": "first", "message_id": "m-1"}.items()


async def test_id_that_a_publisher_chose_cannot_pose_as_anything_else(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()
    handlers.consume("orders")(in_the_loop)
    await handled(handlers, delivery(b'x] [queue=other "\n\x1b[2J', correlation_id=b"y worker=9\xff"))
    (line,) = lines["text"].getvalue().splitlines()
    assert line.isprintable()
    assert r' message_id="x] [queue=other \"\\x0a\\x1b[2J" correlation_id="y worker=9' in line
    assert records(lines)[0]["worker"] == 1


@pytest.mark.parametrize("message", ["x" * 100_000, "\N{PILE OF POO}" * 5000])
async def test_line_that_is_cut_keeps_the_facts(message: str, lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        log.info("%s", message)
        log.info("%s", message, extra={f"field {number}": message for number in range(200)})
        try:
            raise ValueError(message)
        except ValueError:
            log.exception("%s", message)

    await handled(handlers, delivery(b"m" * 255, correlation_id=b"c" * 255))
    for record in records(lines):
        assert record["queue"] == "orders"
        assert record["message_id"].startswith("mmmmmm")
    text = lines["text"].getvalue()
    assert text.count(" attempt=1 worker=1]\n") == 3
    assert max(len(line.encode()) for line in (*text.splitlines(), *lines["json"].getvalue().splitlines())) < 4096


async def test_facts_that_nobody_logs_are_not_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[object] = []
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        log.debug("a detail")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Delivery, "shown_id", property(made.append))
    await handled(handlers, delivery())
    assert made == []


# ---- handlers of the application's own


@pytest.fixture
def own(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """Log as an application that has configured a handler and a format of its own."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(MessageFacts())
    handler.setFormatter(logging.Formatter("%(message)s %(queue)s %(message_id)s %(attempt)s %(messages)s"))
    logging.getLogger().addHandler(handler)
    before, logging.lastResort = logging.lastResort, LineHandler(2)
    logging.lastResort.setFormatter(TextFormatter(message_facts))
    caplog.set_level(logging.INFO)
    yield written
    logging.lastResort = before
    logging.getLogger().removeHandler(handler)


async def test_filter_gives_each_record_its_facts(own: io.StringIO) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    async def order(payload: Any) -> None:
        log.info("charged")
        log.info("charged", extra={"queue": "mine"})

    await handled(handlers, delivery())
    log.info("idle")
    assert own.getvalue().splitlines() == [
        "charged orders m-1 1 None",
        "charged mine m-1 1 None",
        "idle None None None None",
    ]
