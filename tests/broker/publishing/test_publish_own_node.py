"""What is reported stays true when the broker runs out of memory, forbids, finds a message too large, or dies."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mxworker import Handlers, Publisher, Queue
from mxworker.api.receipts import Confirmed
from mxworker.errors import MessageTooLarge, PublishNacked, PublishUnconfirmed
from tests.broker.publishers import Reported, publish_all
from tests.broker.workers import running
from tests.harness.waiting import until, wait_until
from tests.rabbit.client import Client
from tests.rabbit.fixtures import need_nodes
from tests.rabbit.node import Node

MAX_MESSAGE_BYTES = 1_000_000
HEARTBEAT_S = 3  # the broker gives up on a process that stands still for twice as long
LIBRARY_GRACE_S = 3 * (HEARTBEAT_S + 1)  # after so long a silence aiormq gives up by itself
ALARM_S = 3 * LIBRARY_GRACE_S
LARGE_BYTES, LARGE_COUNT = 200_000, 200  # more than the sockets hold, and more than the window
ALARM = ("set_vm_memory_high_watermark", "0.00001")
ALL_CLEAR = ("set_vm_memory_high_watermark", "0.4")
LIFETIME_S = 60.0


@pytest.fixture(scope="module")
def strict_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of this module's own, with a limit on messages and a user who may not write everywhere."""
    need_nodes()
    node = Node(tmp_path_factory.mktemp("strict"), config=f"max_message_size = {MAX_MESSAGE_BYTES}")
    try:
        node.start()
        node.ctl("add_user", "limited", "secret")
        node.ctl("set_permissions", "limited", ".*", "^(?!forbidden).*$", ".*")
        yield node
    finally:
        node.kill()


@pytest.fixture
def queue(strict_node: Node) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    with Client(strict_node.url) as client:
        client.declare(name)
        yield name
        client.delete(name)


def drained(node: Node, queue: str) -> list[str]:
    """Return the bodies in a queue, each as far as its first space."""
    with Client(node.url) as client:
        return [message.body.partition(b" ")[0].decode() for message in client.drain(queue)]


# ---- limits and permissions of the broker


@pytest.mark.parametrize("retry", [True, False], ids=["duplicates-allowed", "never-twice"])
async def test_body_above_the_brokers_limit_fails_alone(strict_node: Node, queue: str, retry: bool) -> None:
    async with Publisher.connect(
        strict_node.url, retry_unconfirmed=retry, channels=1, timeout_s=LIFETIME_S
    ) as publisher:
        sizes = [MAX_MESSAGE_BYTES + 1 if number == 128 else 100 for number in range(256)]
        bodies = [f"{number} ".ljust(size) for number, size in enumerate(sizes)]
        outcomes = await publisher.publish_many(bodies, routing_key=queue)
    found = drained(strict_node, queue)
    assert isinstance(outcomes[128], MessageTooLarge)
    assert str(MAX_MESSAGE_BYTES) in str(outcomes[128])
    confirmed = {f"{number}" for number, outcome in enumerate(outcomes) if isinstance(outcome, Confirmed)}
    print(f"{len(confirmed)} of 255 neighbours confirmed, {len(found) - len(set(found))} duplicates")
    assert confirmed <= set(found)
    assert "128" not in found
    if retry:
        assert len(confirmed) == 255
    else:
        others = [outcome for number, outcome in enumerate(outcomes) if number != 128]
        assert {type(outcome) for outcome in others} <= {Confirmed, PublishUnconfirmed}
        assert len(found) == len(set(found))


async def test_forbidden_exchange_is_a_typed_refusal_and_disturbs_no_other(strict_node: Node, queue: str) -> None:
    url = strict_node.url.replace("guest:guest", "limited:secret")
    with Client(strict_node.url) as client:
        client.declare_exchange("forbidden-exchange")
    async with Publisher.connect(url, retry_unconfirmed=True, channels=1, timeout_s=LIFETIME_S) as publisher:
        reported = Reported()
        neighbours = asyncio.create_task(publish_all(publisher, map(str, range(2000)), queue, 20))
        started_at = time.monotonic()
        await reported.publish(publisher, "", "k", exchange="forbidden-exchange")
        took_s = time.monotonic() - started_at
        with pytest.raises(PublishNacked, match="ACCESS_REFUSED"):
            await publisher.publish("", exchange="forbidden-exchange", routing_key="k")
        figures = (await neighbours).check(drained(strict_node, queue))
    print(f"{dict(reported.kinds)} after {took_s:.2f} s; neighbours: {figures}")
    assert reported.kinds == {"PublishNacked": 1}
    assert took_s < LIFETIME_S / 2  # it does not wait for its timeout
    assert len(neighbours.result().confirmed) == 2000


# ---- the memory alarm


async def test_alarm_stops_publishes_and_nothing_else(
    strict_node: Node, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mxworker")
    url = f"{strict_node.url}?heartbeat={HEARTBEAT_S}"
    handlers = Handlers()
    handled = 0

    @handlers.consume(Queue(f"{queue}.work", type="classic", dead_letter=False), concurrency=2)
    async def work(body: object) -> None:
        nonlocal handled
        await asyncio.sleep(0.02)  # the alarm must end before the work does
        handled += 1

    with Client(strict_node.url) as client:
        client.declare(f"{queue}.work", arguments={"x-queue-type": "classic"})
        client.publish(f"{queue}.work", [b"1"] * 100 * ALARM_S)
    try:
        async with (
            running(url, handlers),
            Publisher.connect(url, timeout_s=90.0, max_in_flight=150, channels=1, name="patient") as patient,
            Publisher.connect(url, when_blocked="raise") as hasty,
        ):
            reported = await publish_all(patient, map(str, range(200)), queue, 20)
            await asyncio.to_thread(strict_node.ctl, *ALARM)
            try:
                handled_before, memory_before = handled, _memory_bytes()
                tasks = _publish_large(patient, reported, queue)
                await _check_refusals(patient, hasty, reported, queue)
                await asyncio.sleep(ALARM_S)  # the fault is the time itself
                assert patient.stats.is_blocked
                handled_during, grown_bytes = handled - handled_before, _memory_bytes() - memory_before
                kinds_during = dict(reported.kinds)
            finally:
                await asyncio.to_thread(strict_node.ctl, *ALL_CLEAR)
            await asyncio.gather(*tasks)
            assert not patient.stats.is_blocked
            assert "lost the connection" not in caplog.text
            await asyncio.to_thread(  # rabbitmqctl takes longer than the heartbeat that the loop has to keep
                wait_until,
                lambda: _channels(strict_node, "patient") == 1,
                LIFETIME_S,
                "the end of all channels but one",
            )
    finally:
        with Client(strict_node.url) as client:
            client.delete(f"{queue}.work")
    figures = reported.check(drained(strict_node, queue))
    print(
        f"{ALARM_S} s of alarm: {handled_during} handled, memory {grown_bytes / 1e6:+.1f} MB, till then {kinds_during}"
    )
    print(f"and in the end {figures}")
    assert handled_during > 20 * ALARM_S
    # the bodies, as text and encoded, and no third time in a buffer
    assert grown_bytes < 2 * LARGE_COUNT * LARGE_BYTES + 15_000_000
    assert kinds_during == {"Confirmed": 200, "PublishUnconfirmed": 2, "PublishOverflow": 2}
    assert reported.kinds == {"Confirmed": 200 + LARGE_COUNT, "PublishUnconfirmed": 2, "PublishOverflow": 2}


def _publish_large(publisher: Publisher, reported: Reported, queue: str) -> list[asyncio.Task[None]]:
    """Publish far more bytes than the sockets hold; the first one runs out of time during the alarm."""
    bodies = [f"large-{number} ".ljust(LARGE_BYTES) for number in range(LARGE_COUNT)]
    first = asyncio.create_task(reported.publish(publisher, "sent-in-vain", queue, timeout_s=3.0))
    return [first, *(asyncio.create_task(reported.publish(publisher, body, queue)) for body in bodies)]


async def _check_refusals(patient: Publisher, hasty: Publisher, reported: Reported, queue: str) -> None:
    await until(lambda: patient.stats.is_blocked)
    await reported.publish(patient, "late", queue, timeout_s=1.0)
    # a connection is told of the alarm when it publishes, so the first one was sent
    await reported.publish(hasty, "hasty-first", queue, timeout_s=0.5)
    await until(lambda: hasty.stats.is_blocked)
    started_at = time.monotonic()
    await reported.publish(hasty, "hasty-second", queue, timeout_s=LIFETIME_S)
    assert time.monotonic() - started_at < LIFETIME_S / 2
    assert reported.refused == {"late", "hasty-second"}


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _channels(node: Node, name: str) -> int:
    """Return how many channels the connection has that goes by this name."""
    lines = node.ctl("list_connections", "client_properties", "channels").splitlines()
    return sum(int(line.rpartition("\t")[2]) for line in lines if f'"{name}"' in line)


# ---- a broker that dies


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_confirmed_messages_outlive_a_killed_broker(own_node: Callable[..., Node], queue_type: str) -> None:
    node = own_node()
    with Client(node.url) as client:
        client.declare("kept", arguments={"x-queue-type": queue_type})
    node.sync()
    async with Publisher.connect(node.url, timeout_s=LIFETIME_S) as publisher:
        reported = await publish_all(publisher, map(str, range(200)), "kept", 50)
        node.kill()
    assert len(reported.confirmed) == 200
    node.start()
    with Client(node.url) as client:
        # the broker opens its port before a quorum queue has elected its leader
        wait_until(lambda: client.counts("kept").messages == 200, LIFETIME_S, "the queue's messages")
        print(f"{queue_type}: {reported.check(message.body.decode() for message in client.drain('kept'))}")
