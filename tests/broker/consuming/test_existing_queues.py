"""Queues that somebody else has declared: a refusal names what differs, and the line to write, which works at once."""

from __future__ import annotations

import asyncio
import re
import shlex
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from mxworker import Queue
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming.declared import DeclaredQueues
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.api.topology import Declaration, declarations
from mxworker.brokers import BrokerUrl
from mxworker.errors import TopologyRefused
from tests.harness.repository import REPOSITORY
from tests.harness.retries import FAST
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client, Refused
from tests.rabbit.node import Node

STEPS_MS = FAST.steps_ms
ADVICE = re.compile(r"[Ww]rite (?P<queue>Queue\(.*?\))(?P<retry> and retry=None)?(?:[. ]|$)", re.MULTILINE)
MOST_LINES = 5
PAGE = REPOSITORY / "docs" / "how-to" / "existing-queues.md"


@pytest.fixture
async def connection(broker_url: str) -> AsyncIterator[BrokerConnection]:
    async with connected(broker_url) as opened:
        yield opened


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[BrokerConnection]:
    opened = await BrokerConnection.open(BrokerUrl.parse(url), "test", asyncio.get_running_loop().time() + 30)
    try:
        yield opened
    finally:
        await opened.close()


@contextmanager
def announced(node: Node, admin: Client) -> Iterator[None]:
    """Announce that the body is refused by 406s, and wait until the broker has logged them all: one more ends them."""
    with node.expect_precondition_failed():
        yield
        mark = f"mark-{uuid.uuid4().hex}"
        admin.declare(mark)
        with pytest.raises(Refused):
            admin.declare(mark, durable=False)
        admin.delete(mark)
        wait_until(lambda: mark in node.log_text(), 30, "the log to have all refusals")


async def start(connection: BrokerConnection, queue: Queue, steps_ms: tuple[int, ...] = STEPS_MS) -> None:
    """Do what a worker does before it consumes a queue, and consume it."""
    subscription = await Subscription.open(connection, queue, 10, print, retry_steps_ms=steps_ms)
    await subscription.close()


async def refusal(connection: BrokerConnection, queue: Queue, steps_ms: tuple[int, ...] = STEPS_MS) -> str:
    with pytest.raises(TopologyRefused) as refused:
        await start(connection, queue, steps_ms)
    text = str(refused.value)
    assert len(text.splitlines()) <= MOST_LINES
    return text


async def follow(connection: BrokerConnection, text: str) -> Queue:
    """Do what a text says, to the letter: write the line, and start."""
    advice = ADVICE.search(text)
    assert advice is not None, text
    queue: Queue = eval(advice["queue"], {"Queue": Queue})
    await start(connection, queue, () if advice["retry"] else STEPS_MS)
    return queue


# ---- other arguments


def ours(name: str, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a queue that mxworker declares, with some changed, and without those that are None."""
    arguments = Queue(name).declared_arguments() | {key.replace("_", "-"): value for key, value in changes.items()}
    return {key: value for key, value in arguments.items() if value is not None}


def retry_queues(name: str) -> list[Declaration]:
    return [one for one in declarations(Queue(name), STEPS_MS) if one.role == "retry"]


DIFFERENT = {
    "classic": (
        lambda name: {"arguments": {"x-queue-type": "classic"}},
        "x-queue-type is 'classic', code says 'quorum'",
    ),
    "no arguments": (lambda name: {}, "x-queue-type is 'classic', code says 'quorum'"),
    "transient": (lambda name: {"durable": False}, "durable is 'false', code says 'true'"),
    "auto_delete": (lambda name: {"auto_delete": True}, "auto_delete is 'true', code says 'false'"),
    "max-length": (lambda name: {"arguments": ours(name, x_max_length=10)}, "x-max-length is '10', code says none"),
    "ttl": (lambda name: {"arguments": ours(name, x_message_ttl=60000)}, "x-message-ttl is '60000', code says none"),
    "expires": (lambda name: {"arguments": ours(name, x_expires=10**7)}, "x-expires is '10000000', code says none"),
    "dead-letter exchange": (
        lambda name: {"arguments": ours(name, x_dead_letter_exchange="dead")},
        "x-dead-letter-exchange is 'dead', code says ''",
    ),
    "dead-letter routing key": (
        lambda name: {"arguments": ours(name, x_dead_letter_routing_key="dead")},
        "x-dead-letter-routing-key is 'dead', code says '{name}.dlq'",
    ),
    "no dead-lettering": (
        lambda name: {"arguments": {"x-queue-type": "quorum"}},
        "x-dead-letter-exchange is none, code says ''",
    ),
    "strategy": (
        lambda name: {"arguments": ours(name, x_dead_letter_strategy=None)},
        "x-dead-letter-strategy is none, code says 'at-least-once'",
    ),
    "delivery limit": (
        lambda name: {"arguments": ours(name, x_delivery_limit=None)},
        "x-delivery-limit is none, code says '2147483647'",
    ),
    "priority": (lambda name: {"arguments": {"x-max-priority": 5}}, "x-max-priority is '5', code says none"),
    "lazy": (lambda name: {"arguments": {"x-queue-mode": "lazy"}}, "x-queue-mode is 'lazy', code says none"),
    "single active consumer": (
        lambda name: {"arguments": ours(name, x_single_active_consumer=True)},
        "x-single-active-consumer is 'true', code says none",
    ),
    "leader": (
        lambda name: {"arguments": ours(name, x_queue_leader_locator="balanced")},
        "x-queue-leader-locator is 'balanced', code says none",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
async def test_queue_with_other_arguments_is_refused_with_both_sides_and_taken_with_the_line_of_the_text(
    kind: str, connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    declared, said = DIFFERENT[kind]
    admin.declare(queue_name, **declared(queue_name))
    with announced(node, admin):
        text = await refusal(connection, Queue(queue_name))
    assert text.startswith(f"broker refused queue '{queue_name}': 406 PRECONDITION_FAILED, ")
    assert said.format(name=queue_name) in text
    if kind == "no arguments" and connection.server.startswith("RabbitMQ 3."):
        assert text.replace(queue_name, "orders") in PAGE.read_text()
    taken = await follow(connection, text)
    assert taken.declare == "passive"
    if kind != "auto_delete":
        assert admin.exists(queue_name)
    assert admin.exists(f"{queue_name}.dlq")


async def test_line_keeps_what_the_code_says_of_the_consumer_and_takes_what_the_broker_has_of_the_queue(
    connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name, arguments=ours(queue_name, x_single_active_consumer=True))
    admin.declare_exchange(f"{queue_name}.shop")
    queue = Queue(
        queue_name,
        type="classic",
        bind=[(f"{queue_name}.shop", "orders.*")],
        dead_letter=False,
        max_priority=5,
        consumer_priority=3,
        arguments={"x-max-length": 10, "x-consumer-timeout": 7200000},
    )
    try:
        with announced(node, admin):
            taken = await follow(connection, await refusal(connection, queue))
        assert taken == Queue(
            queue_name,
            bind=[(f"{queue_name}.shop", "orders.*")],
            dead_letter=False,
            declare="passive",
            single_active_consumer=True,
            consumer_priority=3,
            arguments={"x-consumer-timeout": 7200000},
        )
        admin.publish("orders.*", [b"bound"], exchange=f"{queue_name}.shop")
        assert admin.counts(queue_name).messages == 1
    finally:
        admin.delete_exchange(f"{queue_name}.shop")


async def test_same_refusal_is_not_explored_again(
    connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name)
    with announced(node, admin), pytest.raises(TopologyRefused) as first:
        await Subscription.open(connection, Queue(queue_name), 10, lambda *came: None)
    before = len(node.log_text())
    with announced(node, admin), pytest.raises(TopologyRefused) as second:
        await Subscription.open(connection, Queue(queue_name), 10, lambda *came: None, former=first.value)
    assert second.value is first.value
    assert len(re.findall(rf"inequivalent arg .* for queue '{queue_name}'", node.log_text()[before:])) == 1


async def test_exclusive_queue_of_another_connection(
    connection: BrokerConnection, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name, exclusive=True)
    for declare in ("ensure", "passive"):
        text = await refusal(connection, Queue(queue_name, declare=declare))
        assert text == (
            f"broker refused queue '{queue_name}': 405 RESOURCE_LOCKED, it is exclusive to another connection, and "
            "goes when that connection ends.\n  Have it declared without 'exclusive', or consume another queue."
        )


# ---- queues beside it


async def test_dead_letter_queue_of_others_is_refused_and_taken_with_the_line_of_the_text(
    connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(f"{queue_name}.dlq")
    admin.declare(queue_name)
    with announced(node, admin):
        text = await refusal(connection, Queue(queue_name))
    assert text.startswith(
        f"broker refused queue '{queue_name}.dlq': 406 PRECONDITION_FAILED, x-queue-type is 'classic', "
        "code says 'quorum'.\n"
    )
    await follow(connection, text)


async def test_dead_letter_queue_of_others_without_its_queue_is_to_be_deleted(
    connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(f"{queue_name}.dlq")
    with announced(node, admin):
        text = await refusal(connection, Queue(queue_name))
    assert f"There is no queue '{queue_name}' yet. Delete it when it is empty: mxworker declares it anew." in text
    admin.delete(f"{queue_name}.dlq", if_empty=True)
    await start(connection, Queue(queue_name))


@pytest.mark.parametrize("declare", ["ensure", "passive"])
async def test_retry_queue_with_another_delay_is_refused_and_both_ways_out_work(
    declare: Any, connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    broken = retry_queues(queue_name)[1]
    admin.declare(queue_name, arguments=ours(queue_name))
    admin.declare(broken.name, arguments={**broken.arguments, "x-message-ttl": 60000})
    with announced(node, admin):
        text = await refusal(connection, Queue(queue_name, declare=declare))
        assert text.startswith(
            f"broker refused queue '{broken.name}': 406 PRECONDITION_FAILED, "
            f"x-message-ttl is '60000', code says '{STEPS_MS[1]}'.\n"
        )
    assert "retry=None" in text
    await follow(connection, text)
    admin.delete(broken.name)
    await start(connection, Queue(queue_name, declare=declare))


async def test_retry_queue_of_others_that_moves_messages_back_is_taken(
    connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name)
    for declaration in retry_queues(queue_name):
        kept = ("x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key")
        admin.declare(declaration.name, arguments={key: declaration.arguments[key] for key in kept})
    with announced(node, admin):
        await start(connection, Queue(queue_name, declare="passive"))


# ---- what is missing


async def test_missing_queue_is_not_declared_by_passive_nor_are_those_beside_it(
    connection: BrokerConnection, queue_name: str, admin: Client
) -> None:
    text = await refusal(connection, Queue(queue_name, declare="passive"))
    assert text.startswith(
        f"broker refused queue '{queue_name}': 404 NOT_FOUND, no queue '{queue_name}' in vhost '/'.\n"
    )
    assert not admin.exists(f"{queue_name}.dlq")
    assert await follow(connection, text) == Queue(queue_name)


async def test_missing_queue_beside_one_with_off_names_both_ways(
    connection: BrokerConnection, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name)
    text = await refusal(connection, Queue(queue_name, declare="off"))
    assert text.startswith(f"broker refused queue '{queue_name}.dlq': 404 NOT_FOUND")
    without = ADVICE.findall(text)[1]
    assert without == (f'Queue("{queue_name}", dead_letter=False, declare="off")', " and retry=None")
    await start(connection, eval(without[0]), ())
    assert not admin.exists(f"{queue_name}.dlq")
    await follow(connection, text)
    assert admin.exists(f"{queue_name}.dlq")


async def test_off_consumes_a_missing_queue_not(connection: BrokerConnection, queue_name: str) -> None:
    text = await refusal(connection, Queue(queue_name, declare="off", dead_letter=False), ())
    assert text.startswith(f"broker refused queue '{queue_name}': 404 NOT_FOUND")
    await follow(connection, text)


@pytest.mark.parametrize("declare", ["ensure", "passive"])
async def test_missing_exchange(declare: Any, connection: BrokerConnection, queue_name: str, admin: Client) -> None:
    exchange = f"{queue_name}.shop"
    admin.declare(queue_name, arguments=ours(queue_name))
    queue = Queue(queue_name, declare=declare, bind=[(exchange, "orders")])
    text = await refusal(connection, queue)
    assert text.startswith(
        f"broker refused queue '{queue_name}': 404 NOT_FOUND, no exchange '{exchange}' in vhost '/'.\n"
    )
    assert "Create the exchange first" in text
    admin.declare_exchange(exchange)
    try:
        await start(connection, queue)
    finally:
        admin.delete_exchange(exchange)


# ---- queues that are declared and not consumed


@pytest.mark.parametrize("declare", ["ensure", "passive"])
async def test_declared_queue_of_others_needs_nothing_beside_it(
    declare: Any, connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name)
    if declare == "ensure":
        with announced(node, admin), pytest.raises(TopologyRefused) as refused:
            await DeclaredQueues([Queue(queue_name)]).ensure(connection)
        advice = ADVICE.search(str(refused.value))
        assert advice is not None
        assert advice["queue"] == f'Queue("{queue_name}", type="classic", declare="passive")'
        admin.delete(f"{queue_name}.dlq")
    await DeclaredQueues([Queue(queue_name, type="classic", declare="passive")]).ensure(connection)
    assert not admin.exists(f"{queue_name}.dlq")


# ---- users who may not do everything


@pytest.fixture(scope="module")
def limited_url(node: Node) -> Iterator[str]:
    """The URL for a user whose rights depend on what the name of a queue has in it."""
    rights = {"configure": "noconf", "write": "nowrite", "read": "noread"}
    patterns = [f"^(?!.*{mark}).*" for mark in rights.values()]
    with node.user() as url:
        node.ctl("set_permissions", BrokerUrl.parse(url).user, *patterns)
        yield url


@pytest.fixture
def limited_name(queue_name: str, admin: Client) -> Iterator[str]:
    yield f"{queue_name}-noconf"
    for beside in ("", ".dlq", *(f".retry.{step_ms}" for step_ms in STEPS_MS)):
        admin.delete(f"{queue_name}-noconf{beside}")


async def test_without_the_right_to_declare_existing_queues_are_taken(
    limited_url: str, limited_name: str, admin: Client
) -> None:
    admin.declare(limited_name)
    admin.declare_quorum(f"{limited_name}.dlq")
    for declaration in retry_queues(limited_name):
        admin.declare(declaration.name, arguments=declaration.arguments)
    async with connected(limited_url) as connection:
        await start(connection, Queue(limited_name, declare="passive"))
        assert await follow(connection, await refusal(connection, Queue(limited_name))) == Queue(
            limited_name, declare="passive"
        )


@pytest.mark.parametrize("declare", ["ensure", "passive"])
@pytest.mark.parametrize("missing", ["dlq", "retry.300", "all"])
async def test_without_the_right_to_declare_the_line_does_without_what_is_missing(
    declare: Any, missing: str, limited_url: str, limited_name: str, admin: Client
) -> None:
    admin.declare(limited_name)
    if missing != "dlq" and missing != "all":
        admin.declare_quorum(f"{limited_name}.dlq")
    for declaration in retry_queues(limited_name):
        if not declaration.name.endswith(missing) and missing != "all":
            admin.declare(declaration.name, arguments=declaration.arguments)
    async with connected(limited_url) as connection:
        text = await refusal(connection, Queue(limited_name, declare=declare))
        assert "403 ACCESS_REFUSED" in text
        assert "set_permissions" in text
        taken = await follow(connection, text)
    assert taken == Queue(limited_name, declare="passive", dead_letter=missing == "retry.300")


async def test_without_the_right_to_declare_a_missing_queue_needs_an_administrator(
    limited_url: str, limited_name: str
) -> None:
    async with connected(limited_url) as connection:
        text = await refusal(connection, Queue(limited_name))
    assert text.startswith(f"broker refused queue '{limited_name}.dlq': 403 ACCESS_REFUSED")
    assert f"There is no queue '{limited_name}', and this user may not create it.\n  Have an administrator" in text


async def test_without_the_right_to_read_a_queue_is_not_consumed(
    limited_url: str, queue_name: str, admin: Client
) -> None:
    name = f"{queue_name}-noread"
    admin.declare(name)
    try:
        async with connected(limited_url) as connection:
            text = await refusal(connection, Queue(name, declare="off", dead_letter=False), ())
            assert text.startswith(f"broker refused queue '{name}': 403 ACCESS_REFUSED")
            assert "set_permissions" in text
    finally:
        admin.delete(name)


async def test_without_the_right_to_publish_to_the_default_exchange_line_and_command_of_the_text_work(
    node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name, arguments=ours(queue_name))
    with node.user(may_write="^(?!amq[.]default$).*") as url:
        async with connected(url) as connection:
            text = await refusal(connection, Queue(queue_name, declare="passive"))
            assert "amq.default" in text
            assert await follow(connection, text) == Queue(queue_name, declare="passive", dead_letter=False)
        command = re.search(r"rabbitmqctl (set_permissions .+)", text)
        assert command is not None
        node.ctl(*shlex.split(command[1]))
        async with connected(url) as connection:
            await start(connection, Queue(queue_name))
