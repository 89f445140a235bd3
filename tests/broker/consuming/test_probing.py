"""A probe learns how queues and exchanges are at the broker, and nothing there is another one afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming.found import FoundExchange, FoundQueue
from mxworker.amqp.consuming.probing import Probe
from mxworker.brokers import BrokerUrl
from tests.harness.scales import FULL_ONLY
from tests.rabbit.client import Client
from tests.rabbit.installation import is_embedded
from tests.rabbit.node import Node

LIMIT = 2**31 - 1
OURS = {"x-queue-type": "quorum", "x-delivery-limit": LIMIT, "x-max-length": 10, "x-overflow": "reject-publish"}


@asynccontextmanager
async def probing(url: str) -> AsyncIterator[Probe]:
    connection = await BrokerConnection.open(BrokerUrl.parse(url), "test", asyncio.get_running_loop().time() + 30)
    try:
        yield Probe(connection)
    finally:
        await connection.close()


@contextmanager
def refused(request: pytest.FixtureRequest, times: int) -> Iterator[None]:
    """Announce so many refusals to the shared node, when there is one."""
    if is_embedded() or times == 0:
        yield
        return
    node: Node = request.getfixturevalue("node")
    with node.expect_precondition_failed(lambda: times):
        yield


async def test_missing_queue_stays_missing(
    request: pytest.FixtureRequest, broker_url: str, queue_name: str, admin: Client
) -> None:
    with refused(request, 1):
        async with probing(broker_url) as probe:
            found = await probe.queue(queue_name, OURS)
    assert found == FoundQueue(is_there=False, may_declare=True)
    assert not admin.exists(queue_name)


def after_first_answer(probe: Probe, act: Callable[[], object]) -> None:
    """Let `act` happen at the broker when the probe has had its first answer."""
    ask = probe._ask
    answers = 0

    async def asked(*arguments: Any, **options: Any) -> Any:
        nonlocal answers
        answers += 1
        answer = await ask(*arguments, **options)
        if answers == 1:
            act()
        return answer

    probe._ask = asked  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_queue_that_goes_while_it_is_compared_is_not_declared_again(
    request: pytest.FixtureRequest, broker_url: str, queue_name: str, admin: Client, kind: str
) -> None:
    admin.declare(queue_name, arguments={"x-queue-type": kind})
    with refused(request, 1):
        async with probing(broker_url) as probe:
            after_first_answer(probe, lambda: admin.delete(queue_name))
            found = await probe.queue(queue_name, {"x-queue-type": kind})
    assert found == FoundQueue(is_there=False, may_declare=True)
    assert not admin.exists(queue_name)


async def test_exchange_that_goes_while_it_is_asked_about_is_not_declared_again(
    request: pytest.FixtureRequest, broker_url: str, queue_name: str, admin: Client
) -> None:
    admin.declare_exchange(queue_name, "topic")
    with refused(request, 1):
        async with probing(broker_url) as probe:
            after_first_answer(probe, lambda: admin.delete_exchange(queue_name))
            await probe.exchange(queue_name)
            assert await probe.exchange(queue_name) == FoundExchange(is_there=False)


async def test_queue_that_is_as_it_should_be_has_no_difference(broker_url: str, queue_name: str, admin: Client) -> None:
    admin.declare(queue_name, arguments=OURS)
    admin.publish(queue_name, [b"1", b"2"])
    async with probing(broker_url) as probe:
        found = await probe.queue(queue_name, OURS)
    assert found == FoundQueue(is_there=True, messages=2, may_declare=True, is_compared=True)


@pytest.mark.parametrize(
    ("arguments", "durable", "differences"),
    [
        pytest.param(
            {"x-queue-type": "quorum", "x-max-length": 11, "x-message-ttl": 5},
            True,
            {
                ("x-max-length", 11),
                ("x-delivery-limit", None),
                ("x-overflow", None),
                ("x-message-ttl", 5),
            },
            id="quorum",
        ),
        pytest.param(
            {"x-max-priority": 3, "x-single-active-consumer": True, "x-overflow": "drop-head", "x-max-length": 10},
            False,
            {
                ("durable", "false"),
                ("x-queue-type", "classic"),
                ("x-max-priority", 3),
                ("x-single-active-consumer", True),
                ("x-overflow", "drop-head"),
            },
            id="classic",
        ),
    ],
)
async def test_all_differences_are_found_and_stay(
    request: pytest.FixtureRequest,
    broker_url: str,
    queue_name: str,
    admin: Client,
    arguments: dict[str, Any],
    durable: bool,
    differences: set[tuple[str, Any]],
) -> None:
    if is_embedded() and not durable:
        pytest.skip("the embedded broker compares arguments of every type")
    typed = {"x-queue-type": "classic", **arguments}
    admin.declare(queue_name, durable=durable, arguments=typed)
    with refused(request, len(differences)):
        async with probing(broker_url) as probe:
            found = await probe.queue(queue_name, OURS)
    assert {(each.key, each.value) for each in found.differences} == differences
    assert (found.is_compared, found.trouble) == (True, "")
    admin.declare(queue_name, durable=durable, arguments=typed)


async def test_exchange_shows_its_type_and_a_missing_one_stays_missing(
    request: pytest.FixtureRequest, broker_url: str, queue_name: str, admin: Client
) -> None:
    kinds = ("direct", "topic", "fanout")
    for kind in kinds:
        admin.declare_exchange(f"{queue_name}.{kind}", kind)
    with refused(request, len(kinds)):
        async with probing(broker_url) as probe:
            found = {kind: await probe.exchange(f"{queue_name}.{kind}") for kind in kinds}
            missing = await probe.exchange(queue_name)
            again = await probe.exchange(queue_name)
    for kind in kinds:
        admin.declare_exchange(f"{queue_name}.{kind}", kind)  # refused if it had become another one
        admin.delete_exchange(f"{queue_name}.{kind}")
    assert found == {kind: FoundExchange(is_there=True, type=kind) for kind in kinds}
    assert missing == again == FoundExchange(is_there=False)


async def test_right_to_consume_is_learnt_without_a_consumer(
    request: pytest.FixtureRequest, broker_url: str, queue_name: str, admin: Client
) -> None:
    admin.declare_quorum(queue_name)
    admin.publish(queue_name, [b"1"])
    with refused(request, 1):
        async with probing(broker_url) as probe:
            assert await probe.may_consume(queue_name)
            assert await probe.may_publish()
            assert admin.counts(queue_name) == (1, 0)
    assert not admin.get(queue_name).redelivered  # type: ignore[union-attr]


@FULL_ONLY
async def test_rights_that_the_user_has_not(node: Node, queue_name: str, admin: Client) -> None:
    admin.declare(queue_name, arguments=OURS)
    user = f"{queue_name}-user"
    node.ctl("add_user", user, "secret")
    node.ctl("set_permissions", user, "^$", "^$", "^$")
    try:
        async with probing(node.url.replace("guest:guest", f"{user}:secret")) as probe:
            assert await probe.may_consume(queue_name) is False
            assert await probe.may_publish() is False
            assert (await probe.queue(queue_name, OURS)).may_declare is False
            assert (await probe.queue(f"{queue_name}.dlq", OURS)).may_declare is False
    finally:
        node.ctl("delete_user", user)
