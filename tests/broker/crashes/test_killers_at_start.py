"""Messages that kill workers and wait in a queue already do not keep a service from coming up."""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGTERM

import pytest

from tests.broker.apps import Recorded
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

QUEUES_BESIDE = 40
KILLERS = 3

# A worker consumes the killers' queue long before it has declared the other queues, so it dies before it is ready.
MANY_QUEUES = f"""
    import asyncio
    import os
    import signal

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    name = os.environ["QUEUE"]


    @handlers.consume(Queue(name))
    async def work(message_id: str) -> None:
        ledger.start(message_id)
        match message_id.partition("!")[0]:
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                while True:
                    pass
        ledger.finish(message_id)


    for number in range({QUEUES_BESIDE}):

        @handlers.consume(Queue(f"{{name}}.beside.{{number}}", type="classic", dead_letter=False), retry=None)
        async def pass_on(message_id: str) -> None:
            pass
"""


@pytest.fixture
def waiting(recorded: Recorded, broker_url: str, queue_name: str) -> Iterator[Recorded]:
    yield recorded
    with Client(broker_url) as client:
        for number in range(QUEUES_BESIDE):
            client.delete(f"{queue_name}.beside.{number}")


def await_quarantined(broker_url: str, queue_name: str, killers: int) -> None:
    with Client(broker_url) as client:
        wait_until(lambda: client.exists(f"{queue_name}.quarantine"), 300, "the quarantine")
        wait_until(lambda: client.counts(f"{queue_name}.quarantine").messages == killers, 300, "the killers in it")


@pytest.mark.parametrize("kind", ["exit", "kill", "hang"])
def test_killer_that_waits_is_set_aside_and_the_service_comes_up(
    waiting: Recorded, broker_url: str, queue_name: str, kind: str
) -> None:
    """Also one that ends its worker with the exit code of an application that cannot be loaded."""
    waiting.publish_ids([f"{kind}!{queue_name}", f"{queue_name}-1"])
    with waiting.service("--workers=1", "--heartbeat-timeout=3s", source=MANY_QUEUES) as service:
        service.wait_ready(300)
        wait_until(lambda: waiting.finished_ids == {f"{queue_name}-1"}, 300, "the innocent to be handled")
        await_quarantined(broker_url, queue_name, 1)
        service.signal(SIGTERM)
        assert service.wait_exit() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_service_comes_up_with_many_killers_waiting(
    waiting: Recorded, broker_url: str, queue_name: str, workers: int
) -> None:
    waiting.publish_ids([f"exit!{queue_name}-{number}" for number in range(KILLERS)])
    with waiting.service(f"--workers={workers}", source=MANY_QUEUES) as service:
        service.wait_ready(300)
        await_quarantined(broker_url, queue_name, KILLERS)  # a killer that runs while it drains is an error of the end
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
