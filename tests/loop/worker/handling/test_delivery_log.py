"""The line of a delivery that did not end in a plain ack: what failed, where, and what comes next."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mxworker import Ack, Delivery, Handlers, Queue, Reject, Requeue, Retry, RetryPolicy
from mxworker.api.context import WorkerResources
from mxworker.system.log_formats import JsonFormatter, TextFormatter
from mxworker.wire.field_table import encode
from tests.harness.logged import events
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Channel, at_work
from tests.rabbit.raw import raw_properties

SOON_S = 10.0
LADDER = RetryPolicy(max_retries=3, delays=(1, 5, 25), jitter=False)
NAMED = "message m-1 of queue orders"


def failing(outcome: Callable[[], Any], *, dead_letter: bool = True, **how: Any) -> Handlers:
    handlers = Handlers()

    @handlers.consume(Queue("orders", dead_letter=dead_letter), **{"retry": LADDER, **how})
    async def order(payload: Any) -> Any:
        raise outcome()

    return handlers


def delivery(channel: Channel, attempt: int = 1, body: bytes = b"1", tag: int = 1) -> Delivery:
    headers = encode({"mx-attempt": attempt})
    raw = raw_properties(message_id=b"m-%d" % tag, headers=len(headers).to_bytes(4, "big") + headers)
    return Delivery(body, raw, b"\0\0", False, tag, channel)


async def handled(handlers: Handlers, *given: Delivery) -> None:
    publishing: Any = Publishing(None)
    bench = at_work(handlers, resources=WorkerResources(publishing, publishing, publishing), rng=Hasty())
    for each in given:
        bench.runner.admit(each)
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert not bench.broken


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mxworker")


# ---- what comes next


@pytest.mark.parametrize(
    ("attempt", "then"),
    [(1, "again in 1 s"), (2, "again in 5 s"), (3, "again in 25 s"), (4, "it is a dead letter now")],
)
async def test_line_of_a_failure_says_which_attempt_and_what_comes_next(
    attempt: int, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    await handled(failing(lambda: ValueError("no such order")), delivery(Channel(), attempt))
    (line,) = caplog.messages
    assert line == f"handler order failed on {NAMED}, attempt {attempt} of 4, {then}: ValueError: no such order"


@pytest.mark.parametrize(
    ("how", "then"),
    [
        ({"on_error": "ack"}, "attempt 1 of 4, it is acked all the same: ValueError: no"),
        ({"on_error": "requeue"}, "attempt 1 of 4, again at once: ValueError: no"),
        ({"on_error": "reject"}, "attempt 1 of 4, it is a dead letter now: ValueError: no"),
        ({"retry": None}, "attempt 1 of 1, it is a dead letter now: ValueError: no"),
        ({"reject_on": [ValueError]}, "attempt 1 of 4, it is a dead letter now: ValueError: no"),
    ],
)
async def test_line_goes_by_what_the_registration_says(
    how: dict[str, Any], then: str, caplog: pytest.LogCaptureFixture
) -> None:
    await handled(failing(lambda: ValueError("no"), **how), delivery(Channel()))
    (line,) = caplog.messages
    assert line == f"handler order failed on {NAMED}, {then}"


async def test_line_of_a_batch_names_the_first_and_how_many_more(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()

    @handlers.consume_batch("orders", size=3, retry=LADDER)
    async def order(payloads: list[Any]) -> None:
        raise ValueError("no")

    channel = Channel()
    await handled(handlers, *(delivery(channel, tag=tag) for tag in (1, 2, 3)))
    (line,) = caplog.messages
    expected = "handler order failed on message m-1 and 2 more of queue orders, attempt 1 of 4, again in 1 s"
    assert line == f"{expected}: ValueError: no"


async def test_stale_one_is_the_brokers(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()

    def fail() -> Exception:
        channel.is_lost = True
        return ValueError("no")

    await handled(failing(fail), delivery(channel))
    assert "the broker delivers it again, for its channel was lost: ValueError: no" in caplog.text


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (lambda: Ack(), None),
        (lambda: Retry(reason="busy"), None),
        (lambda: Requeue(), None),
        (lambda: Reject("no"), "WARNING"),
    ],
)
async def test_what_the_handler_asked_for_and_gets_is_no_failure(
    outcome: Callable[[], Any], level: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    await handled(failing(outcome), delivery(Channel()))
    assert [record.levelname for record in caplog.records] == ([] if level is None else [level])


# ---- what is gone leaves a line


@pytest.mark.parametrize(
    ("outcome", "how", "attempt", "body", "why"),
    [
        (lambda: ValueError("no"), {"retry": None}, 1, b"1", "ValueError: no"),
        (lambda: ValueError("no"), {}, 4, b"1", "ValueError: no"),
        (lambda: ValueError("no"), {"on_error": "reject"}, 1, b"1", "ValueError: no"),
        (lambda: Reject("too old"), {}, 1, b"1", "too old"),
        (lambda: Retry(reason="busy"), {"retry": None}, 1, b"1", "busy"),
        (lambda: Retry(reason="busy"), {}, 4, b"1", "busy"),
        (lambda: Requeue(), {}, 4, b"1", "asked to be requeued, in the last of 4 attempts"),
        (lambda: ValueError("no"), {"on_error": "requeue"}, 4, b"1", "ValueError: no"),
        (lambda: Ack(), {}, 1, b"{", "DecodeError: the body is not JSON"),
    ],
)
async def test_message_that_nothing_keeps_leaves_a_line_with_its_id_and_why(
    outcome: Callable[[], Any],
    how: dict[str, Any],
    attempt: int,
    body: bytes,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel()
    await handled(failing(outcome, dead_letter=False, **how), delivery(channel, attempt, body))
    assert channel.rejected == [1]
    (record,) = [record for record in caplog.records if "it is gone" in record.getMessage()]
    assert record.levelno >= logging.WARNING
    assert NAMED in record.getMessage()
    assert why in record.getMessage()


async def test_what_cannot_be_copied_and_is_gone_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    given = Delivery(b"1", raw_properties(headers=b"\x00\x00\x00\x03abc"), b"\0\0", False, 1, channel)
    await handled(failing(lambda: ValueError("no"), dead_letter=False), given)
    assert channel.rejected == [1]
    assert "it is gone, since the queue has no dead-letter queue" in caplog.text


async def test_lines_of_what_is_gone_are_limited_and_those_of_retries_take_nothing_from_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel()
    many = [delivery(channel, tag=tag) for tag in range(1, 61)]
    last = [delivery(channel, 4, tag=tag) for tag in range(61, 121)]
    await handled(failing(lambda: ValueError("no"), dead_letter=False), *many, *last)
    assert caplog.text.count("again in 1 s") == 10
    assert caplog.text.count("it is gone") == 10


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
@pytest.mark.parametrize("dead_letter", [True, False])
@pytest.mark.parametrize("outcome", [lambda: Reject("no"), lambda: ValueError("no"), lambda: Retry(reason="busy")])
async def test_what_becomes_a_dead_letter_is_told_whatever_the_settings(
    outcome: Callable[[], Any], dead_letter: bool, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "mxworker")
    await handled(failing(outcome, dead_letter=dead_letter, retry=None), delivery(Channel()))
    told = [(line["outcome"], line["levelname"]) for line in events(caplog, "delivery_ended")]
    is_failure = isinstance(outcome(), ValueError)
    if level == "WARNING" or is_failure:
        assert told == [("dead_letter" if dead_letter else "gone", "ERROR" if is_failure else "WARNING")]


async def test_deliveries_without_a_line_are_counted_in_one(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    publishing: Any = Publishing(None)
    bench = at_work(
        failing(lambda: ValueError("no"), retry=None),
        resources=WorkerResources(publishing, publishing, publishing),
        rng=Hasty(),
    )
    for tag in range(1, 61):
        bench.runner.admit(delivery(channel, tag=tag))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    now = time.monotonic()
    bench.runner.tell_rest(now)
    assert events(caplog, "deliveries_ended") == []  # the ten seconds are not over
    for _ in range(2):
        bench.runner.tell_rest(now + 11)
    (line,) = events(caplog, "deliveries_ended")
    assert line.items() >= {"handler": "order", "queue": "orders", "deliveries": 50, "kind": "dead_letter"}.items()
    assert caplog.messages[-1] == "handler order: 50 more messages of queue orders became dead letters"
    assert len(events(caplog, "delivery_ended")) == 10


async def test_rest_of_batches_is_counted_in_messages(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()

    @handlers.consume_batch(Queue("orders", dead_letter=False), size=5, retry=None)
    async def order(payloads: list[Any]) -> None:
        raise ValueError("no")

    bench = at_work(handlers)
    channel = Channel()
    for tag in range(1, 101):
        bench.runner.admit(delivery(channel, tag=tag))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    bench.runner.tell_rest(time.monotonic() + 11)
    assert [(line["deliveries"], line["kind"]) for line in events(caplog, "deliveries_ended")] == [(50, "gone")]


# ---- where it failed


@pytest.fixture
def lines() -> Iterator[dict[str, io.StringIO]]:
    """Collect the log as it is written, in both styles."""
    written = {"text": io.StringIO(), "json": io.StringIO()}
    handlers = []
    for style, formatter in (("text", TextFormatter()), ("json", JsonFormatter())):
        handler = logging.StreamHandler(written[style])
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
        handlers.append(handler)
    yield written
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


def in_the_application() -> None:
    raise ValueError("no such order")


@pytest.mark.parametrize("kind", ["async", "def", "middleware", "task group", "caused"])
async def test_traceback_has_the_frames_of_the_application_alone(kind: str, lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    async def work(payload: Any) -> None:
        if kind == "task group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.wait_for(asyncio.to_thread(in_the_application), 5))
        try:
            in_the_application()
        except ValueError as error:
            if kind != "caused":
                raise
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
                raise KeyError(1) from error

    def work_in_thread(payload: Any) -> None:
        in_the_application()

    if kind == "middleware":

        @handlers.middleware
        async def around(payload: Any, ctx: Any, call_next: Any) -> Any:
            return await call_next(payload, ctx)

    handlers.consume("orders")(work_in_thread if kind == "def" else work)
    await handled(handlers, delivery(Channel()))
    for style in ("text", "json"):
        written = lines[style].getvalue()
        assert "in in_the_application" in written, style
        assert "/mxworker/worker/" not in written
        assert "/asyncio/" not in written
        assert "/concurrent/" not in written


async def test_error_that_only_we_have_raised_keeps_its_frames(lines: dict[str, io.StringIO]) -> None:
    handlers = Handlers()

    @handlers.consume("orders")
    def work(payload: Any) -> None: ...

    bench = at_work(handlers)
    bench.runner._process.threads.close()  # so that a thread pool of the standard library refuses the call
    bench.runner.admit(delivery(Channel()))
    await asyncio.wait_for(bench.runner.finished(), SOON_S)
    assert "/concurrent/futures/thread.py" in lines["text"].getvalue()


async def test_in_json_each_fact_is_a_field(lines: dict[str, io.StringIO]) -> None:
    await handled(failing(lambda: ValueError("no such order")), delivery(Channel(), 2))
    await handled(failing(lambda: Reject("too old")), delivery(Channel()))
    failed, rejected = map(json.loads, lines["json"].getvalue().splitlines())
    assert (
        failed.items()
        >= {
            "handler": "order",
            "queue": "orders",
            "message_id": "m-1",
            "attempt": 2,
            "max_attempts": 4,
            "error_type": "ValueError",
            "error": "no such order",
            "outcome": "retry",
            "retry_in_s": 5.0,
            "level": "error",
        }.items()
    )
    assert (
        rejected.items() >= {"outcome": "dead_letter", "error": "too old", "error_type": "", "level": "warning"}.items()
    )
    assert "retry_in_s" not in rejected
