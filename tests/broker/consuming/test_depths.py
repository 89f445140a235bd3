"""What a service learns of its queues from the broker: of every type, without rights, and from one worker at a time."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL

import pytest

from mxworker.amqp.connecting.connection import Dialler, Link
from mxworker.amqp.consuming.depths import DepthReader, Depths
from mxworker.api.queues import Queue
from mxworker.board.metric_values import QueueFacts
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.control.client import ask
from mxworker.control.metrics_json import metrics_of
from mxworker.control.protocol import Metrics
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

WITHIN_S = 60


@pytest.fixture(scope="module")
def powerless(node: Node) -> Iterator[str]:
    """The URL for a user who may neither configure, write nor read anything."""
    name = f"powerless-{uuid.uuid4().hex[:8]}"
    node.ctl("add_user", name, "secret")
    node.ctl("set_permissions", name, "^$", "^$", "^$")
    yield node.url.replace("guest:guest", f"{name}:secret")
    node.ctl("delete_user", name)


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[DepthReader]:
    link = Link(Dialler(Brokers((BrokerUrl.parse(url),)), random.Random(1)), "test", lambda: None)
    connecting = asyncio.create_task(link.run())
    try:
        await link.connection()
        found = DepthReader(link)
        yield found
        await found.close()
    finally:
        connecting.cancel()
        await link.close()


async def test_user_without_rights_learns_the_depths_of_queues_of_every_type(
    powerless: str, admin: Client, queue_name: str
) -> None:
    admin.declare_quorum(queue_name)
    admin.declare(f"{queue_name}.dlq", arguments={"x-queue-type": "stream"})
    admin.declare(f"{queue_name}.retry.1000")
    admin.declare(f"{queue_name}.retry.5000", exclusive=True)
    for beside, count in (("", 3), (".dlq", 2), (".retry.1000", 4)):
        admin.publish(f"{queue_name}{beside}", [b"body"] * count)
    async with reader(powerless) as depths:
        found = await depths.read(Queue(queue_name), (1000,), is_consumed=False)
        assert found == Depths(3, 0, retry_waiting=4, dead_letters=found.dead_letters, quarantined=0)
        assert found.dead_letters in (0, 2)  # of a stream it says 0 always, or from 4.0 on what it counted last
        asked = depths.asked
        assert await depths.read(Queue(queue_name, dead_letter=False), (), is_consumed=False) == Depths(
            3, 0, retry_waiting=None, dead_letters=None, quarantined=0
        )
        assert depths.asked == asked + 1  # the quarantine was not there, and is not asked about again
        admin.declare(f"{queue_name}.quarantine")
        admin.publish(f"{queue_name}.quarantine", [b"body"])
        depths.expect([f"{queue_name}.quarantine"])
        # The other queue for retries belongs to another connection, which is an error of the channel (405).
        found = await depths.read(Queue(queue_name), (1000, 5000), is_consumed=False)
        assert found == Depths(3, 0, retry_waiting=None, dead_letters=found.dead_letters, quarantined=1)
        assert found.dead_letters in (0, 2)
    admin.delete(f"{queue_name}.retry.5000")


async def test_queue_that_is_missing_or_has_no_leader_is_unknown(
    powerless: str, admin: Client, queue_name: str
) -> None:
    async with reader(powerless) as depths:
        found = await depths.read(Queue(queue_name), (1000,), is_consumed=False)
        assert found == Depths(None, None, retry_waiting=0, dead_letters=0, quarantined=0)
        admin.declare_quorum(queue_name)
        depths.expect([queue_name])
        assert (await depths.read(Queue(queue_name), (), is_consumed=False)).ready == 0
        assert (await depths.read(Queue(queue_name), (), is_consumed=True)).ready is None


APP = """
    import time
    from pathlib import Path

    from mxworker import Handlers, Queue, RetryPolicy
    from mxworker.worker import queue_watch

    queue_watch.LOOK_EVERY_S = 0.5  # so that the test need not wait for two looks of 5 s

    if Path("hang").exists():
        time.sleep(600)

    handlers = Handlers()


    @handlers.consume(Queue("QUEUE"))
    async def work(message_id: str) -> None:
        pass
"""


@pytest.fixture
def service(tmp_path: Path, queue_name: str, broker_url: str) -> Iterator[Service]:
    command = mxworker_run(write_app(tmp_path, APP.replace("QUEUE", queue_name)), "--workers=2", app_dir=tmp_path)
    with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url}) as running_service:
        running_service.wait_ready()
        yield running_service


def facts(service: Service) -> QueueFacts | None:
    [socket] = (service.runtime_directory / "mxworker").glob("*.sock")
    answer = ask(socket, Metrics(), time.monotonic() + 10)
    return next(iter(metrics_of(answer["metrics"]).queues), None)


def test_facts_are_on_the_board_and_another_worker_takes_over(
    service: Service, admin: Client, queue_name: str, tmp_path: Path
) -> None:
    service.mxworker("ctl", "pause")
    wait_until(lambda: admin.counts(queue_name).consumers == 0, WITHIN_S, "the pause")
    retry = next(
        name for name in (f"{queue_name}.retry.{ms}" for ms in (5000, 10000, 30000, 60000)) if admin.exists(name)
    )
    for name, count in ((queue_name, 2), (f"{queue_name}.dlq", 3), (retry, 1)):
        admin.publish(name, [b"body"] * count)

    def is_known() -> bool:
        found = facts(service)
        return found is not None and (found.ready or 0) >= 2 and (found.consumers, found.dead_letters) == (0, 3)

    wait_until(is_known, WITHIN_S, "the depths")
    found = facts(service)
    assert found is not None
    assert (found.queue, found.quarantined) == (queue_name, 0)
    assert found.retry_waiting is not None
    assert abs(found.looked_at_unix_s - time.time()) < WITHIN_S

    (tmp_path / "hang").touch()  # the worker in the first slot comes back, and never becomes ready
    first, _ = service.workers()
    first.signal(SIGKILL)
    wait_until(lambda: len(service.workers()) == 2 and not first.is_alive, WITHIN_S, "the replacement")
    admin.publish(f"{queue_name}.dlq", [b"body"])
    wait_until(lambda: (now := facts(service)) is not None and now.dead_letters == 4, WITHIN_S, "a look of the other")
