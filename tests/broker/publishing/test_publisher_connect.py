"""Publisher.connect outside a worker: how it fails, what leaving the block means, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from mxworker import Publisher
from mxworker.errors import ConfigError, ConnectionLost, CredentialsRefused, PublishOverflow
from tests.harness.faults import Arrival
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client

SOON_S = 60.0
SECRET = "Pa55-of-nobody"


@pytest.fixture
def queue(queue_name: str, admin: Client) -> str:
    """A queue that exists."""
    admin.declare(queue_name)
    return queue_name


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of this process, of all libraries and at every level."""
    caplog.set_level(logging.DEBUG)
    for name in ("mxworker", "aio_pika", "aiormq", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    return caplog


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# ---- how it fails


@pytest.mark.parametrize("arrival", [Arrival.REFUSE, Arrival.RESET, Arrival.MUTE])
async def test_broker_that_does_not_answer_is_connection_lost_in_time(arrival: Arrival) -> None:
    async with Proxy("127.0.0.1", 1) as proxy:
        proxy.new_connections(arrival)
        before = others()
        started_at = time.monotonic()
        with pytest.raises(ConnectionLost):
            async with Publisher.connect(proxy.url(), connect_wait_s=0.5):
                raise AssertionError
        assert 0.4 < time.monotonic() - started_at < 15  # the default is 30 s
        await until(lambda: others() <= before, SOON_S, "the end of all tasks")


async def test_wrong_password_is_refused_at_once(broker_url: str) -> None:
    url = broker_url.replace("guest:guest", f"guest:{SECRET}")
    started_at = time.monotonic()
    with pytest.raises(CredentialsRefused) as caught:
        async with Publisher.connect(url):
            raise AssertionError
    assert time.monotonic() - started_at < 15, "far less than connect_wait_s"
    assert SECRET not in str(caught.value)
    await asyncio.sleep(0)
    assert not others()


@pytest.mark.parametrize("url", ["", "http://host/", "amqp://", f"amqp://user:{SECRET}/x@host/", "amqp://host:0/"])
async def test_wrong_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with Publisher.connect(url):
            raise AssertionError
    assert SECRET not in str(caught.value)
    assert not others()


async def test_no_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError):
        async with Publisher.connect():
            raise AssertionError


async def test_two_brokers_of_which_one_is_down_are_one_broker(broker_url: str, queue: str) -> None:
    async with Publisher.connect("amqp://127.0.0.1:1/", broker_url) as publisher:
        await publisher.publish(b"", routing_key=queue)


# ---- leaving the block


async def test_leaving_the_block_waits_for_what_was_accepted(broker_url: str, queue: str, admin: Client) -> None:
    async with Publisher.connect(broker_url) as publisher:
        receipts = [publisher.publish_nowait(str(number), routing_key=queue) for number in range(20)]
        assert not any(receipt.done() for receipt in receipts)
    assert all(receipt.result() for receipt in receipts)
    assert [message.body for message in admin.drain(queue)] == [b"%d" % number for number in range(20)]
    with pytest.raises(PublishOverflow, match="the publisher is closed"):
        publisher.publish_nowait(b"", routing_key=queue)


class Boom(Exception):
    pass


async def test_exception_in_the_block_does_so_too(broker_url: str, queue: str, admin: Client) -> None:
    async def publish() -> None:
        async with Publisher.connect(broker_url) as publisher:
            for number in range(20):
                publisher.publish_nowait(str(number), routing_key=queue)
            raise Boom

    with pytest.raises(Boom):
        await publish()
    assert admin.counts(queue).messages == 20


async def test_cancelled_block_does_so_too(broker_url: str, queue: str, admin: Client) -> None:
    async def publish() -> None:
        async with Publisher.connect(broker_url) as publisher:
            for number in range(20):
                publisher.publish_nowait(str(number), routing_key=queue)
            await asyncio.sleep(3600)

    task = asyncio.create_task(publish())
    await until(lambda: admin.counts(queue).messages, SOON_S, "the publishes")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert admin.counts(queue).messages == 20
    assert not others()


# ---- what stays behind


def test_a_process_may_run_one_event_loop_after_the_other(broker_url: str, queue: str, admin: Client) -> None:
    async def publish(body: str) -> None:
        async with Publisher.connect(broker_url) as publisher:
            await publisher.publish(body, routing_key=queue)

    async def publish_in_threads() -> None:
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, publish(f"thread {number}")) for number in range(3)))

    asyncio.run(publish("first"))
    asyncio.run(publish("second"))
    asyncio.run(publish_in_threads())
    bodies = [message.body.decode() for message in admin.drain(queue)]
    assert bodies[:2] == ["first", "second"]
    assert sorted(bodies[2:]) == ["thread 0", "thread 1", "thread 2"]


async def test_nothing_is_left_of_fifty_publishers(broker_url: str, queue: str) -> None:
    before = descriptors()
    for _ in range(50):
        async with Publisher.connect(broker_url) as publisher:
            publisher.publish_nowait(b"", routing_key=queue)
    await until(lambda: not others(), SOON_S, "the end of all tasks")
    await until(lambda: descriptors() <= before, SOON_S, "the end of all sockets")


async def test_nothing_is_left_of_fifty_vain_attempts(broker_url: str) -> None:
    async with proxy_to(broker_url) as proxy:
        proxy.new_connections(Arrival.RESET)
        before = descriptors()
        for _ in range(50):
            with pytest.raises(ConnectionLost):
                async with Publisher.connect(proxy.url(broker_url), connect_wait_s=0.01):
                    raise AssertionError
        await until(lambda: not others(), SOON_S, "the end of all tasks")
        await until(lambda: descriptors() <= before, SOON_S, "the end of all sockets")


async def test_log_never_shows_a_password_or_a_body(
    broker_url: str, queue: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CredentialsRefused):
        async with Publisher.connect(broker_url.replace("guest:guest", f"guest:{SECRET}")):
            raise AssertionError
    async with Publisher.connect(broker_url) as publisher:
        await publisher.publish("top-secret-body", routing_key=queue)
        await publisher.publish({"top-secret": "body"}, routing_key=queue, headers={"h": "top-secret-header"})
    assert everything_logged.records
    log = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in everything_logged.records)
    for secret in (SECRET, "guest:guest", "top-secret"):
        assert secret not in log, [line for line in log.splitlines() if secret in line][:3]
