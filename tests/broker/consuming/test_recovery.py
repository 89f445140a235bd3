"""Whatever ends consuming, it goes on by itself, and what another queue does is not disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.harness.faults import TO_CLIENT
from tests.harness.frames import BASIC_DELIVER
from tests.harness.proxy import proxy_to
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

BACK_WITHIN_S = 10

TWO_QUEUES = """
    import os

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue(os.environ["FIRST"], declare="passive", dead_letter=False), retry=None)
    async def first(message_id: str) -> None:
        ledger.finish(message_id)


    @handlers.consume(Queue(os.environ["SECOND"], declare="passive", dead_letter=False), retry=None)
    async def second(message_id: str) -> None:
        ledger.finish(message_id)
"""


def test_broker_killed_and_restarted(own_node: Callable[..., Node], tmp_path: Path) -> None:
    node = own_node()
    recorded = Recorded(node.url, tmp_path, "orders")
    with recorded.service("--workers=2", work_s=0.05) as service:
        service.wait_ready()
        node.sync()
        recorded.publish(3_000)
        wait_until(lambda: recorded.handled > 200, 30, "some work")
        workers = service.workers()
        node.kill()
        node.start()
        before = recorded.handled
        wait_until(lambda: recorded.handled > before or _has_all(recorded), BACK_WITHIN_S, "work after the restart")
        recorded.publish(100)
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
        assert service.workers() == workers, "no process was replaced for the broker's fault"
        service.stop()
        assert service.exit_code == 0
    assert recorded.judge().nothing_lost


def test_queue_deleted_and_made_again(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with recorded.service("--workers=1") as service, Client(broker_url) as client:
        service.wait_ready()
        for count in range(1, 4):
            client.delete(queue_name)
            wait_until(
                lambda: client.exists(queue_name) and client.counts(queue_name).consumers, BACK_WITHIN_S, "a consumer"
            )
            recorded.publish(1)
            wait_until(lambda count=count: recorded.handled == 2 * count, BACK_WITHIN_S, "the message to be handled")
    assert recorded.judge().exactly_once


def test_queue_made_again_before_the_broker_has_said_that_it_was_deleted(
    recorded: Recorded, broker_url: str, queue_name: str
) -> None:
    with recorded.service("--workers=2", "--log-level=debug") as service, Client(broker_url) as client:
        for count in range(1, 4):
            wait_until(lambda count=count: _consumed(service, queue_name) == 2 * count, BACK_WITHIN_S, "both consumers")
            client.delete(queue_name)
            recorded.declare()
            recorded.publish(10)  # fewer than the prefetch: a consumer that gets nothing would hold them all
            wait_until(lambda: recorded.finished_ids == set(recorded.ids), BACK_WITHIN_S, "every id")
    assert recorded.judge().nothing_lost


def test_missing_queue_comes_back_and_the_other_one_is_undisturbed(
    broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    steady, missing = Recorded(broker_url, tmp_path, queue_name), Recorded(broker_url, tmp_path, f"{queue_name}-2")
    with Client(broker_url) as client, _two_queues(broker_url, steady, missing) as service:
        client.delete(missing.queue)
        service.wait_for_log("READY -> DEGRADED")  # at the start it was CONNECTING -> DEGRADED
        steady.publish(500)
        wait_until(lambda: steady.finished_ids == set(steady.ids), BACK_WITHIN_S, "the steady queue")
        missing.declare()
        missing.publish(10)
        wait_until(
            lambda: steady.finished_ids == {*steady.ids, *missing.ids}, BACK_WITHIN_S, "the queue that was missing"
        )
        assert _consumed(service, steady.queue) == 1, "its consumer was never replaced"
        client.delete(missing.queue)


def _has_all(recorded: Recorded) -> bool:
    return recorded.finished_ids == set(recorded.ids)


def _consumed(service: Service, queue: str) -> int:
    """Count how often a worker has said that it consumes `queue`."""
    return len(service.events("queue_consumed", queue=queue))


@contextmanager
def _two_queues(url: str, first: Recorded, second: Recorded) -> Iterator[Service]:
    first.declare()
    second.declare()
    app = write_app(first.folder, TWO_QUEUES)
    env = {"MXWORKER_BROKER_URL": url, "LEDGER": str(first.path), "FIRST": first.queue, "SECOND": second.queue}
    command = mxworker_run(app, "--workers=1", "--log-level=debug", app_dir=first.folder)
    with Service(command, first.folder, env=env) as service:
        service.wait_ready()
        yield service


@pytest.mark.parametrize("fault", ["cut", "refuse-then-heal", "silence"])
def test_connection_fault(fault: str, recorded: Recorded, broker_url: str) -> None:
    recorded.publish(300)
    with proxy_to(broker_url) as proxy:
        url = f"{proxy.url()}?heartbeat=1"
        with recorded.service("--workers=1", work_s=0.05, concurrency=4, url=url) as service:
            service.wait_ready()
            wait_until(lambda: recorded.handled > 20, 30, "some work")
            if fault == "silence":
                proxy.blackhole()
                service.wait_for_log("was silent", 10)
                proxy.heal()
            else:
                proxy.cut()
            before = recorded.handled
            wait_until(
                lambda: recorded.handled > before + 10 or _has_all(recorded), BACK_WITHIN_S, f"work after {fault}"
            )
            wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
    assert recorded.judge().nothing_lost


def test_consumer_that_silently_gets_nothing_is_replaced(recorded: Recorded, broker_url: str) -> None:
    with (
        proxy_to(broker_url) as proxy,
        recorded.service("--workers=1", concurrency=1, url=proxy.url()) as service,
    ):
        service.wait_ready()
        swallowed = proxy.drop(TO_CLIENT, BASIC_DELIVER)
        recorded.publish(10)  # more than the prefetch of 2, so that some stay ready
        service.wait_for_log("none is delivered", 30)
        proxy.remove(swallowed)
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 30, "every id")
    assert recorded.judge().nothing_lost
