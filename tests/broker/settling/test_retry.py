"""Failed messages wait at the broker, step by step, come back as they were, and end as dead letters that tell why."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from mxworker import Ack, Context, Handlers, Queue, Reject, Requeue, Retry, RetryPolicy
from mxworker.board.metrics_layout import Outcome
from mxworker.errors import BrokerError, ExitCode, TopologyRefused
from mxworker.wire.field_table import encode
from tests.broker.cli.test_start import run
from tests.broker.failing import LADDER, Notes, counting_what_goes_back, dead_letters, noting, removing
from tests.broker.workers import running
from tests.harness.proxy import proxy_to
from tests.harness.retries import FAST
from tests.harness.scales import among
from tests.harness.service import write_app
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.raw import raw_properties

SOON_S = 60.0
LONG_STEPS_S = (0.3, 0.6, 6.0)
LONG_LADDER = RetryPolicy(max_retries=3, delays=LONG_STEPS_S, jitter=False)
SLACK_S = 40.0  # less than 60 messages take when each holds its place while it waits
EXPIRATION_MS = b"4000"  # long enough to be taken in time on a busy machine, and shorter than the last step


@pytest.fixture
def work(queue_name: str, admin: Client) -> Iterator[str]:
    """A queue with the retry queues of both ladders."""
    with removing(admin, queue_name, LADDER), removing(admin, queue_name, LONG_LADDER):
        yield queue_name
    for beside in (".cc", ".bcc", ".sent"):
        admin.delete(f"{queue_name}{beside}")


def declare_copied(admin: Client, queue: str) -> None:
    """Declare the queues that CC and BCC name; `<queue>.sent` gathers what came there, which itself expires."""
    admin.declare_quorum(f"{queue}.sent")
    for beside in (".cc", ".bcc"):
        to_sent = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": f"{queue}.sent"}
        admin.declare_quorum(f"{queue}{beside}", x_message_ttl=1, **to_sent)


def plain(number: int, queue: str) -> bytes:
    return raw_properties(delivery_mode=2, message_id=b"id-%d" % number)


def acted_upon(number: int, queue: str) -> bytes:
    """Return properties with all that the broker would act upon in a copy."""
    death = {"queue": queue, "reason": "expired", "count": 1, "exchange": "", "routing-keys": [queue]}
    headers = encode({"x-death": [death], "CC": [f"{queue}.cc"], "BCC": [f"{queue}.bcc"], "tenant": "blue"})
    return raw_properties(
        headers=struct.pack(">I", len(headers)) + headers,
        delivery_mode=2,
        expiration=EXPIRATION_MS,
        message_id=b"id-%d" % number,
        user_id=b"guest",
    )


@pytest.mark.parametrize(
    ("queue_type", "properties", "count"),
    [("quorum", plain, 100), ("quorum", acted_upon, 100), ("classic", acted_upon, 60)],
    ids=["quorum", "quorum, with all that the broker acts upon", "classic, the same"],
)
async def test_handler_that_always_fails_gets_each_message_four_times_and_holds_up_no_other(
    queue_type: Literal["quorum", "classic"],
    properties: Any,
    count: int,
    worker_url: str,
    work: str,
    admin: Client,
) -> None:
    handlers, notes = Handlers(), Notes()

    @handlers.consume(Queue(work, type=queue_type), retry=LONG_LADDER, concurrency=8)
    async def order(body: str, ctx: Context) -> None:
        if notes.take(ctx).startswith("bad"):
            raise ValueError(f"no order {body}")

    declare_copied(admin, work)
    bad, good = [f"bad-{number}" for number in range(count)], [f"good-{number}" for number in range(count)]
    async with proxy_to(worker_url) as proxy, running(proxy.url(worker_url), handlers) as worker:
        back = counting_what_goes_back(proxy)
        published_at, published_at_s = time.monotonic(), int(time.time())
        for number in range(count):
            admin.publish_raw(work, bad[number].encode(), properties(number, work))
            admin.publish_raw(work, good[number].encode(), plain(number, work))
            await until(lambda taken=bad[number]: taken in notes.at, SOON_S, "it to be taken before it expires")  # type: ignore[misc]
        await until(lambda: all(notes.at[body] for body in good), SOON_S, "the good ones")
        dead = await dead_letters(admin, work, count)
        await until(lambda: worker.count(Outcome.REJECT) == count, SOON_S, "their acks")
        assert worker.count(Outcome.RETRY) == 3 * count
        assert back.frames == 0, "the broker saw an immediate requeue"
    assert admin.counts(f"{work}.sent").messages == (2 * count if properties is acted_upon else 0)
    assert admin.counts(work).messages == 0
    assert max(notes.at[body][0] for body in good) - published_at < SLACK_S
    assert all(notes.attempts[body] == [1] for body in good)
    for body in bad:
        assert notes.attempts[body] == [1, 2, 3, 4]
        for gap_s, step_s in zip(notes.gaps_s(body), LONG_STEPS_S, strict=True):
            assert step_s * 0.95 < gap_s < step_s + SLACK_S
    assert dead.keys() == set(bad)
    for number, body in enumerate(bad):
        _check_facts(dead[body].headers, work, body, published_at_s)
        assert dead[body].message_id == f"id-{number}"
        origin = dead[body].origin
        assert origin is not None
        assert (origin.exchange, origin.routing_key) == ("", work)
    if properties is acted_upon:
        last, letter = notes.shown["bad-0"], dead["bad-0"]
        for shown in (last, letter):
            assert shown.headers["tenant"] == "blue"
            assert (shown.properties.expiration, shown.properties.user_id) == (None, None)
            origin = shown.origin
            assert origin is not None
            assert origin.headers["x-death"][0]["queue"] == work
            assert origin.headers["CC"] == [f"{work}.cc"]
            assert (origin.expiration, origin.claimed_user_id) == (EXPIRATION_MS.decode(), "guest")


def _check_facts(headers: dict[str, Any], queue: str, body: str, published_at_s: int) -> None:
    facts = {name: value for name, value in headers.items() if name.startswith("mx-") and name != "mx-failed-at"}
    assert facts == {
        "mx-queue": queue,
        "mx-handler": "order",
        "mx-attempts": 4,
        "mx-reason": "failed",
        "mx-error-type": "ValueError",
        "mx-error": f"no order {body}",
    }
    assert published_at_s + 2 <= headers["mx-failed-at"].timestamp() <= time.time()


async def test_retry_waits_as_long_as_it_asks_for_and_at_most_the_last_step(
    broker_url: str, work: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    handlers, notes = Handlers(), Notes()
    asked_s = {"0": 0.3, "0.3": 0.3, "0.4": 0.6, "1.5": 1.5, "60": 1.5, "90": 1.5}  # and what comes of it

    @handlers.consume(work, retry=LADDER)
    async def order(body: str, ctx: Context) -> Retry | None:
        body = notes.take(ctx)
        return Retry(after=float(body)) if ctx.attempt == 1 else None

    async with running(broker_url, handlers):
        admin.publish(work, [body.encode() for body in asked_s])
        await until(lambda: notes.executions == 2 * len(asked_s), SOON_S, "all to come back")
    for body, step_s in asked_s.items():
        (gap_s,) = notes.gaps_s(body)
        assert step_s * 0.95 < gap_s < step_s + SLACK_S, body
    assert len([line for line in caplog.messages if "asked for a retry after" in line]) == 1
    assert admin.counts(f"{work}.dlq").messages == 0


class Hopeless(Exception):
    """What no second attempt helps."""


async def test_what_is_not_worth_a_retry_is_a_dead_letter_at_once(broker_url: str, work: str, admin: Client) -> None:
    handlers, notes = Handlers(), Notes()

    @handlers.consume(work, retry=LADDER, reject_on=(Hopeless,), timeout=0.2)
    async def order(payload: dict[str, Any], ctx: Context) -> None:
        notes.take(ctx)
        match payload["how"]:
            case "hopeless":
                raise Hopeless("no such customer")
            case "rejects":
                raise Reject("too old")
        raise AssertionError

    bodies = {"hopeless": b'{"how": "hopeless"}', "rejects": b'{"how": "rejects"}', "undecodable": b"no JSON"}
    async with running(broker_url, handlers):
        admin.publish(work, bodies.values())
        dead = await dead_letters(admin, work, 3)
    facts = {
        how: [dead[body.decode()].headers[f"mx-{name}"] for name in ("attempts", "reason", "error-type")]
        for how, body in bodies.items()
    }
    assert facts == {
        "hopeless": [1, "failed", "Hopeless"],
        "rejects": [1, "rejected", ""],
        "undecodable": [1, "undecodable", "DecodeError"],
    }
    assert dead[bodies["rejects"].decode()].headers["mx-error"] == "too old"
    assert notes.executions == 2, "the undecodable one reached no handler"


async def test_handler_out_of_time_is_retried_and_its_dead_letter_says_so(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, notes = Handlers(), Notes()

    @handlers.consume(queue_name, retry=FAST, timeout=0.1)
    async def order(body: str, ctx: Context) -> None:
        notes.take(ctx)
        await asyncio.sleep(3600)

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"slow"])
        dead = await dead_letters(admin, queue_name, 1)
    headers = dead["slow"].headers
    assert (headers["mx-reason"], headers["mx-error"], headers["mx-attempts"]) == (
        "timeout",
        "timed out after 0.1 s",
        4,
    )
    assert notes.attempts["slow"] == [1, 2, 3, 4]


@pytest.mark.parametrize("on_error", ["reject", "ack"])
async def test_on_error_settles_at_once(
    on_error: Literal["reject", "ack"], broker_url: str, queue_name: str, admin: Client
) -> None:
    notes = Notes()
    handlers = noting(queue_name, notes, on_error=on_error)
    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"1"])
        await until(lambda: worker.count(Outcome.ACK) + worker.count(Outcome.REJECT) == 1, SOON_S, "its end")
    dead = await dead_letters(admin, queue_name, int(on_error == "reject"))
    assert [letter.headers["mx-error"] for letter in dead.values()] == ["boom"] * len(dead)
    assert notes.executions == 1
    assert admin.counts(queue_name).messages == 0


async def test_without_retries_a_failure_is_a_dead_letter_and_there_are_no_retry_queues(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, notes = Handlers(), Notes()

    @handlers.consume(queue_name, retry=None)
    async def order(body: str, ctx: Context) -> object:
        if notes.take(ctx) == "asks":
            return Retry(after=5, reason="the bank sleeps")
        raise ValueError("boom")

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"fails", b"asks"])
        dead = await dead_letters(admin, queue_name, 2)
        assert not any(admin.exists(f"{queue_name}.retry.{step_ms}") for step_ms in (1000, 5000, 25_000))
    assert {body: letter.headers["mx-error"] for body, letter in dead.items()} == {
        "fails": "boom",
        "asks": "the bank sleeps",
    }
    assert notes.executions == 2


@pytest.mark.parametrize("parameters", [{}, {"type": "classic"}, {"single_active_consumer": True}], ids=str)
async def test_requeue_for_ever_ends_in_the_dead_letter_queue_after_all_its_attempts(
    parameters: dict[str, Any], broker_url: str, queue_name: str, admin: Client
) -> None:
    """More than RabbitMQ 4 has as its delivery limit; each is counted and shown, and none is a return."""
    notes = Notes()
    handlers = noting(Queue(queue_name, **parameters), notes, Requeue, retry=RetryPolicy(max_retries=30), concurrency=1)
    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers):
        back = counting_what_goes_back(proxy)
        admin.publish(queue_name, [b"1", b"2"])
        dead = await dead_letters(admin, queue_name, 2)
        assert back.frames == 0
    assert {body: len(at) for body, at in notes.at.items()} == {"1": 31, "2": 31}
    assert notes.attempts == {"1": list(range(1, 32)), "2": list(range(1, 32))}
    assert {letter.headers["mx-attempts"] for letter in dead.values()} == {31}


async def test_requeued_messages_of_a_single_active_consumer_keep_their_places(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    ran: list[tuple[str, int]] = []

    @handlers.consume(Queue(queue_name, single_active_consumer=True), concurrency=1, prefetch=10, on_error="requeue")
    async def order(body: str, ctx: Context) -> None:
        ran.append((body, ctx.attempt))
        if ctx.attempt <= int(body) % 3:
            raise ValueError("about to pass")

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [str(number).encode() for number in range(20)])
        await until(lambda: worker.count(Outcome.ACK) == 20, SOON_S, "all")
    assert ran == [(str(number), attempt) for number in range(20) for attempt in range(1, number % 3 + 2)]


@pytest.mark.parametrize("retry", [FAST, None])
async def test_requeue_into_a_full_queue_waits_in_a_retry_queue_or_here_and_is_not_lost(
    retry: RetryPolicy | None, broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    started: list[str] = []
    release = asyncio.Event()

    @handlers.consume(
        Queue(queue_name, type="classic", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}),
        concurrency=1,
        prefetch=1,
        retry=retry,
    )
    async def order(body: str) -> Requeue | None:
        started.append(body)
        await release.wait()
        return Requeue() if body == "first" and started.count("first") == 1 else None

    async with running(broker_url, handlers) as worker:
        admin.publish(queue_name, [b"first"])
        await until(lambda: started == ["first"], SOON_S, "the first to run")
        admin.publish(queue_name, [b"second"])  # now it is full
        release.set()
        await until(lambda: worker.count(Outcome.ACK) == 2, SOON_S, "both")
    assert sorted(started) == ["first", "first", "second"]


async def test_deleted_queues_beside_the_work_queue_are_made_again_when_they_are_needed(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    notes = Notes()
    handlers = noting(queue_name, notes)
    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers):
        back = counting_what_goes_back(proxy)
        for beside in (".dlq", *(f".retry.{step_ms}" for step_ms in FAST.steps_ms)):
            admin.delete(f"{queue_name}{beside}")
        admin.publish(queue_name, [str(number).encode() for number in range(20)])
        dead = await dead_letters(admin, queue_name, 20)
        assert back.frames == 0
    assert {letter.headers["mx-attempts"] for letter in dead.values()} == {4}
    assert notes.executions == 80


# ---- queues that others declare


BESIDE = ("dlq", "retry.100", "retry.300", "retry.900")


def declare_all(admin: Client, queue: str, missing: str) -> None:
    """Declare what a worker needs, as an operator would do it, but for one queue."""
    admin.declare_quorum(queue)
    for beside in BESIDE:
        if beside != missing:
            back = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": queue}
            is_retry = beside.startswith("retry.")
            ttl = {"x_message_ttl": int(beside.partition(".")[2]), **back} if is_retry else {}
            admin.declare_quorum(f"{queue}.{beside}", **ttl)


@pytest.mark.parametrize("missing", among(BESIDE, "dlq", "retry.300"))
async def test_missing_queue_that_is_not_ours_to_declare_is_an_error_at_the_start(
    missing: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()

    @handlers.consume(Queue(queue_name, declare="off"), retry=FAST)
    async def order(body: str) -> None:
        raise AssertionError

    declare_all(admin, queue_name, missing)
    async with running(broker_url, handlers, ends_with=ExitCode.BROKER, wait_until_ready=False) as worker:
        await until(lambda: worker.service.failure, SOON_S, "the failure")
    failure: BrokerError | None = worker.service.failure  # type: ignore[assignment]
    assert isinstance(failure, TopologyRefused)
    assert f"broker refused queue '{queue_name}.{missing}': 404 NOT_FOUND" in str(failure)


def test_missing_retry_queue_ends_the_service_with_4_and_a_text(
    tmp_path: Path, broker_url: str, queue_name: str, admin: Client
) -> None:
    source = f"""
        from mxworker import Handlers, Queue, RetryPolicy

        handlers = Handlers()


        @handlers.consume(Queue("{queue_name}", declare="off"), retry=RetryPolicy(delays=(0.1, 0.3, 0.9)))
        async def order(payload: dict) -> None:
            pass
    """
    declare_all(admin, queue_name, "retry.300")
    app = write_app(tmp_path, source)
    ended = run(tmp_path, app, url=broker_url)
    assert ended.returncode == 4
    assert ended.stderr.startswith(f"Error: broker refused queue '{queue_name}.retry.300': 404 NOT_FOUND")


async def test_queues_that_others_declared_are_used_as_they_are(
    broker_url: str,
    queue_name: str,
    admin: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "mxworker.worker.handling.settling")
    handlers, notes = Handlers(), Notes()

    @handlers.consume(Queue(queue_name, declare="off"), retry=FAST)
    async def order(body: str, ctx: Context) -> object:
        match notes.take(ctx):
            case "good":
                return Ack()
            case "requeues":
                return Requeue()
        raise ValueError("boom")

    declare_all(admin, queue_name, "")
    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"fails", b"good", b"requeues"])
        dead = await dead_letters(admin, queue_name, 2)
    assert dead["fails"].headers["mx-attempts"] == 4
    assert {body: len(at) for body, at in notes.at.items()} == {"fails": 4, "good": 1, "requeues": 4}
    assert "without the facts" not in caplog.text
