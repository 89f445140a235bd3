"""Headers that a publisher has forged make no message immortal, and none vanish before a handler had it."""

from __future__ import annotations

import struct
from typing import Any, Literal

import pytest

from mxworker import Context, Delivery, Handlers, Queue, Reject, Requeue, Retry
from mxworker.api.settlement import Settlement
from mxworker.errors import DecodeError
from mxworker.wire.field_table import encode, entry
from mxworker.wire.origins import headers_of
from mxworker.wire.properties import split
from tests.broker.failing import Notes, counting_what_goes_back, dead_letters, noting
from tests.broker.workers import running
from tests.harness.proxy import proxy_to
from tests.harness.retries import FAST
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.raw import field, nested_table, raw_properties, table, wide_table

FORGED: dict[str, Any] = {
    "zero": 0,
    "minus one": -1,
    "one": 1,
    "two": 2,
    "huge": 10**9,
    "largest": 2**63 - 1,
    "text": "4",
    "no text": "never",
    "true": True,
    "none": None,
    "real": 2.5,
    "array": [1, 2, 3],
    "nested": {"mx-attempt": {"mx-attempt": 1}},
}
COUNTS = (0, 1, 2, -1, 10**9, "1", None, {"x-delivery-count": 1})
# The last execution of all: an attempt that is none counts as the first, one that is too high as the last.
EXECUTIONS = dict.fromkeys(FORGED, 4) | {"two": 3, "huge": 1, "largest": 1}


def with_headers(**headers: Any) -> bytes:
    raw = encode({name.replace("_", "-"): value for name, value in headers.items()})
    return raw_properties(headers=struct.pack(">I", len(raw)) + raw, delivery_mode=2)


async def test_forged_attempts_are_executed_at_least_once_and_at_most_as_often_as_any(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    notes = Notes()
    handlers = noting(queue_name, notes)
    async with running(broker_url, handlers):
        for kind, value in FORGED.items():
            admin.publish_raw(queue_name, kind.encode(), with_headers(mx_attempt=value, mx_attempts=value))
        dead = await dead_letters(admin, queue_name, len(FORGED))
    assert {kind: len(at) for kind, at in notes.at.items()} == EXECUTIONS
    for kind, letter in dead.items():
        assert notes.attempts[kind][-1] == letter.headers["mx-attempts"] == 4, kind
        assert notes.attempts[kind] == list(range(5 - EXECUTIONS[kind], 5)), kind


async def test_forged_twice_in_one_table_is_no_way_around(broker_url: str, queue_name: str, admin: Client) -> None:
    notes = Notes()
    handlers = noting(queue_name, notes)
    two = table(*(entry(b"mx-attempt", b"b" + bytes((attempt,))) for attempt in (1, 2)))
    async with running(broker_url, handlers):
        admin.publish_raw(queue_name, b"1", raw_properties(headers=two, delivery_mode=2))
        await dead_letters(admin, queue_name, 1)
    assert notes.attempts["1"][-1] == 4
    assert len(notes.attempts["1"]) <= 4


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("declare", ["ensure", "off"])
async def test_forged_count_of_redeliveries_lets_nobody_requeue_for_ever(
    queue_type: Literal["quorum", "classic"],
    declare: Literal["ensure", "off"],
    broker_url: str,
    queue_name: str,
    admin: Client,
) -> None:
    """What is declared elsewhere is taken for a quorum queue by the code here, and is one or not."""
    notes = Notes()
    queue = Queue(queue_name, type=queue_type if declare == "ensure" else "quorum", declare=declare)
    handlers = noting(queue, notes, Requeue)
    if declare == "off":
        declare_all(admin, queue_name, queue_type)
    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers):
        back = counting_what_goes_back(proxy)
        for number, count in enumerate(COUNTS):
            admin.publish_raw(queue_name, b"%d" % number, with_headers(x_delivery_count=count))
        await dead_letters(admin, queue_name, len(COUNTS))
        assert back.frames == 0
    assert {len(at) for at in notes.at.values()} == {4}
    assert len(notes.at) == len(COUNTS)


def declare_all(admin: Client, queue: str, queue_type: str) -> None:
    """Declare what a worker needs, as an operator would do it."""
    admin.declare(queue, arguments={"x-queue-type": queue_type})
    admin.declare_quorum(f"{queue}.dlq")
    for step_ms in FAST.steps_ms:
        back = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": queue}
        admin.declare_quorum(f"{queue}.retry.{step_ms}", x_message_ttl=step_ms, **back)


async def test_forged_death_and_origin_neither_loses_a_message_nor_saves_it(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    """An x-death that names every queue on the way, and a copy's own headers, as if it had been one."""
    notes = Notes()
    handlers = noting(queue_name, notes, Retry)
    around = [queue_name, f"{queue_name}.dlq", *(f"{queue_name}.retry.{step_ms}" for step_ms in FAST.steps_ms)]
    deaths = [
        {"queue": queue, "reason": reason, "count": 10**6, "exchange": "", "routing-keys": [queue_name]}
        for queue in around
        for reason in ("expired", "rejected", "maxlen")
    ]
    origin = {"mx_origin_exchange": "elsewhere", "mx_origin_routing_key": "away", "mx_origin_x_death": deaths}
    messages = {
        "death": with_headers(x_death=deaths),
        "death of no form": with_headers(x_death={"queue": queue_name}),
        "origin": with_headers(x_death=deaths, **origin),
        "origin of no form": with_headers(**dict.fromkeys(origin, 1)),
        "facts": with_headers(mx_queue="elsewhere", mx_attempts=10**9, mx_failed_at="never", mx_reason={}),
    }
    async with running(broker_url, handlers):
        for body, properties in messages.items():
            admin.publish_raw(queue_name, body.encode(), properties)
        dead = await dead_letters(admin, queue_name, len(messages))
    assert notes.attempts == {body: [1, 2, 3, 4] for body in messages}
    for letter in dead.values():
        assert letter.headers["mx-queue"] == queue_name
        assert letter.headers["mx-attempts"] == 4


async def test_forged_origin_gives_no_handler_a_user_or_an_exchange_that_the_broker_did_not_name(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    """On the first execution, and on the retry, which is a copy that says the same."""
    handlers, shown = Handlers(), list[tuple[Any, ...]]()

    @handlers.consume(queue_name, retry=FAST)
    async def order(body: str, ctx: Context) -> Retry | None:
        delivery = ctx.delivery
        shown.append((delivery.exchange, delivery.routing_key, delivery.properties.user_id, delivery.headers.get("CC")))
        assert delivery.origin is not None
        assert (delivery.origin.exchange, delivery.origin.claimed_user_id) == ("payments", "admin")
        return Retry() if ctx.attempt == 1 else None

    names = ("mx_origin_exchange", "mx_origin_routing_key", "mx_origin_user_id", "mx_origin_CC")
    forged = with_headers(**dict(zip(names, ("payments", "approved", "admin", ["elsewhere"]), strict=True)))
    async with running(broker_url, handlers):
        admin.publish_raw(queue_name, b"1", forged)
        await until(lambda: len(shown) == 2, 60.0, "the retry")
    assert shown == [("", queue_name, None, None)] * 2


async def test_headers_that_nobody_can_read_are_copied_and_counted_all_the_same(
    broker_url: str, queue_name: str, admin: Client
) -> None:
    handlers, notes = Handlers(), Notes()

    @handlers.consume(queue_name, retry=FAST)
    async def order(delivery: Delivery, ctx: Context) -> None:
        with pytest.raises(DecodeError):
            assert delivery.headers is None
        notes.take(ctx)
        raise ValueError("boom")

    deep = b"F" + nested_table(600)
    headers = table(*(entry(name, deep) for name in (b"mx-attempt", b"x-delivery-count", b"other")))
    async with running(broker_url, handlers):
        admin.publish_raw(queue_name, b"deep", raw_properties(headers=headers, delivery_mode=2))
        dead = await dead_letters(admin, queue_name, 1)
    assert notes.attempts == {"deep": [1, 2, 3, 4]}
    entries = dict(headers_of(split(dead["deep"].raw_properties)))
    assert entries[b"other"] == deep
    assert entries[b"mx-error"].endswith(b"boom")


@pytest.mark.parametrize("failure", [Retry, Requeue, Reject])
async def test_message_with_headers_beyond_number_is_a_dead_letter_of_the_brokers_after_its_first_failure(
    failure: type[Settlement], broker_url: str, queue_name: str, admin: Client
) -> None:
    """No copy of it is made, and no attempt of it is read, so it cannot be tried again, at once or later."""
    notes = Notes()
    handlers = noting(queue_name, notes, failure)
    many = wide_table(25_000)[4:]  # with names of their own: RabbitMQ 4 keeps only one of two
    counts = field(b"x-delivery-count", b"b", b"\x01") + field(b"mx-attempt", b"b", b"\x01")
    raw = raw_properties(headers=table(many + counts), delivery_mode=2)
    async with running(broker_url, handlers):
        admin.publish_raw(queue_name, b"many", raw)
        dead = await dead_letters(admin, queue_name, 1)
    assert notes.attempts == {"many": [1]}
    assert b"mx-error" not in dead["many"].raw_properties
