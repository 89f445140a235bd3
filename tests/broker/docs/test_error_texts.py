"""docs/error-texts.md has the texts about what a broker refuses, word for word."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from mxworker import Publisher, Queue
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming.subscription import Subscription
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.config.process import Consumption
from mxworker.errors import BrokerError, CredentialsRefused, PublishError, TlsRefused, TopologyRefused
from mxworker.worker.main import failure_at_start
from tests.harness.error_texts import check
from tests.harness.faults import TO_CLIENT
from tests.harness.frames import BASIC_ACK
from tests.harness.proxy import proxy_to
from tests.rabbit.client import Client
from tests.rabbit.node import Node

TEXTS = {
    "the broker refused us: 403 ACCESS_REFUSED",
    "the broker refused us: 530 NOT_ALLOWED",
    "the broker does not speak TLS on this port",
    "406 PRECONDITION_FAILED",
    "404 NOT_FOUND",
    "refused for user",
    "there is no queue of that name",
    "no queue is bound to this exchange",
    "no exchange",
    "basic.nack",
    "publishes are in flight already",
    "it may be in the queue, or not",
}
SOON_S = 30.0
DIFFERENCES = 4  # of the queue that exists; the broker logs each, when they are looked for


def at_start(url: str, failure: BrokerError) -> str:
    """Return what the service says that fails to start by this."""
    return failure_at_start(Consumption(app="app", brokers=Brokers.parse([url])), failure, False)


async def connect(url: str) -> BrokerConnection:
    return await BrokerConnection.open(BrokerUrl.parse(url), "test", asyncio.get_running_loop().time() + SOON_S)


async def refused(url: str) -> str:
    with pytest.raises((CredentialsRefused, TlsRefused)) as failed:
        await connect(url)
    assert isinstance(failed.value, BrokerError)
    return at_start(url, failed.value)


async def test_connection(broker_url: str) -> None:
    port = str(BrokerUrl.parse(broker_url).port)
    texts = {
        "the broker refused us: 403 ACCESS_REFUSED": broker_url.replace("guest:guest@", "guest:wrong@"),
        "the broker refused us: 530 NOT_ALLOWED": f"{broker_url.rstrip('/')}/{quote('no-such-host')}",
        "the broker does not speak TLS on this port": broker_url.replace("amqp://", "amqps://"),
    }
    for name, url in texts.items():
        check(name, await refused(url), port=port)


@pytest.fixture
async def connection(broker_url: str) -> AsyncIterator[BrokerConnection]:
    opened = await connect(broker_url)
    yield opened
    await opened.close()


async def consume(connection: BrokerConnection, url: str, queue: Queue) -> str:
    with pytest.raises(TopologyRefused) as failed:
        await Subscription.open(connection, queue, 10, print, retry_steps_ms=(1000,))
    return at_start(url, failed.value)


async def test_queue_with_other_arguments(
    connection: BrokerConnection, node: Node, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name, arguments={"x-queue-type": "classic"})
    with node.expect_precondition_failed(lambda: 1 + DIFFERENCES):
        text = await consume(connection, node.url, Queue(queue_name))
    check("406 PRECONDITION_FAILED", text, queue=queue_name)


async def test_queue_that_is_missing(connection: BrokerConnection, broker_url: str, queue_name: str) -> None:
    check("404 NOT_FOUND", await consume(connection, broker_url, Queue(queue_name, declare="off")), queue=queue_name)


async def test_queue_that_this_user_may_not_declare(node: Node, queue_name: str) -> None:
    name = queue_name.replace("-", "")  # the text has a pattern, in which a hyphen would be escaped
    with node.user() as url:
        user = BrokerUrl.parse(url).user
        node.ctl("set_permissions", user, "^$", ".*", ".*")
        connection = await connect(url)
        try:
            text = await consume(connection, url, Queue(name))
        finally:
            await connection.close()
    since_4 = re.sub(r"(?<!configure) access to", " configure access to", text)
    check("refused for user", since_4, queue=name, user=user)


@pytest.fixture
async def publisher(broker_url: str) -> AsyncIterator[Publisher]:
    async with Publisher.connect(broker_url, attempts=1) as connected:
        yield connected


async def publish(publisher: Publisher, exchange: str = "", routing_key: str = "") -> str:
    with pytest.raises(PublishError) as failed:
        await publisher.publish(b"x", exchange=exchange, routing_key=routing_key)
    return f"{type(failed.value).__name__}: {failed.value}"


async def test_publish_that_goes_nowhere(publisher: Publisher, queue_name: str) -> None:
    shown = {"queue": queue_name}
    check("there is no queue of that name", await publish(publisher, routing_key=queue_name), **shown)
    check("no queue is bound to this exchange", await publish(publisher, "amq.topic", queue_name), **shown)
    check("no exchange", await publish(publisher, queue_name, "new"), **shown)


async def test_publish_to_a_queue_that_is_full(publisher: Publisher, queue_name: str, admin: Client) -> None:
    admin.declare(queue_name, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    await publisher.publish(b"x", routing_key=queue_name)
    check("basic.nack", await publish(publisher, routing_key=queue_name), queue=queue_name)


async def test_publish_at_a_full_window(broker_url: str, queue_name: str, admin: Client) -> None:
    admin.declare(queue_name)
    async with Publisher.connect(broker_url, max_in_flight=1) as publisher:
        first = publisher.publish_nowait(b"x", routing_key=queue_name)
        with pytest.raises(PublishError) as failed:
            publisher.publish_nowait(b"x", routing_key=queue_name)
        check("publishes are in flight already", f"{type(failed.value).__name__}: {failed.value}")
        await first


async def test_publish_whose_confirm_does_not_come(broker_url: str, queue_name: str, admin: Client) -> None:
    admin.declare(queue_name)
    with proxy_to(broker_url) as proxy:
        async with Publisher.connect(proxy.url(broker_url), timeout_s=1.0) as publisher:
            await publisher.publish(b"x", routing_key=queue_name, timeout_s=SOON_S)
            proxy.drop(TO_CLIENT, BASIC_ACK)
            check("it may be in the queue, or not", await publish(publisher, routing_key=queue_name), queue=queue_name)
