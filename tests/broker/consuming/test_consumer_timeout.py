"""RabbitMQ takes back what is unsettled for too long: warned of at the start, survived when it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import ledger
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

STEADY_WITHIN_S = 2.0
CONFIG = "[{rabbit, [{consumer_timeout, %d}, {channel_tick_interval, 500}]}]."

SLOW_AND_STEADY = """
    import asyncio
    import os

    from mxworker import Context, Handlers
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume("slow", timeout=60)
    async def slow(message_id: str, ctx: Context) -> None:
        ledger.start(message_id)
        if message_id == "held" and not ctx.delivery.redelivered:
            await asyncio.sleep(float(os.environ["HELD_S"]))
        ledger.finish(message_id)


    @handlers.consume("steady")
    async def steady(message_id: str) -> None:
        ledger.start(message_id)
        ledger.finish(message_id)
"""

LONG_HOLDS = """
    from mxworker import Handlers, Queue

    handlers = Handlers()


    @handlers.consume("QUEUE", FLAGS)
    async def patient(payload: dict) -> None:
        pass
"""


def test_handler_above_the_consumer_timeout_costs_its_own_queue_a_moment_and_nobody_a_message(
    own_node: Callable[..., Node], tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    node = own_node(advanced_config=CONFIG % 8000)
    held_s = scale(16, 30)  # well over the broker's patience
    path = tmp_path / "ledger"
    env = {"MXWORKER_BROKER_URL": node.url, "LEDGER": str(path), "HELD_S": str(held_s)}
    command = mxworker_run(write_app(tmp_path, SLOW_AND_STEADY), "--workers=1", "--log-level=debug", app_dir=tmp_path)

    def done(message_id: str) -> int:
        return sum(one.id == message_id and one.event is ledger.FINISH for one in ledger.read(path))

    with Service(command, tmp_path, env=env) as service, Client(node.url) as client:
        service.wait_ready()
        workers = service.workers()
        client.publish("slow", [b"held"])
        for number in range(100_000):
            client.publish("steady", [f"{number}".encode()])
            wait_until(lambda number=number: done(f"{number}"), STEADY_WITHIN_S, "the queue that never stops")
            if done("held") == 2:  # by the redelivery, and by the handler that the broker had no patience with
                break
        assert "delivery acknowledgement on channel" in service.log_text()
        client.publish("slow", [b"next"])
        wait_until(lambda: done("next"), 2 * held_s, "the next one on a new channel")
        log = service.log_text()
        assert log.count("consuming queue slow,") == 2
        assert log.count("consuming queue steady,") == 1
        assert service.workers() == workers
        service.stop()
        assert service.exit_code == 0
        assert ", 1 stale" in service.log_text()
        assert client.counts("slow").messages == client.counts("slow.dlq").messages == 0


@contextmanager
def _started(url: str, queue: str, folder: Path, said: str) -> Iterator[Service]:
    app = write_app(folder, LONG_HOLDS.replace("QUEUE", queue).replace("FLAGS", said))
    command = mxworker_run(app, "--workers=2", app_dir=folder)
    with Service(command, folder, env={"MXWORKER_BROKER_URL": url}) as service:
        service.wait_ready()
        yield service


def test_prefetch_that_may_wait_longer_than_the_broker_does_is_warned_of_once(
    broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    with _started(broker_url, queue_name, tmp_path, "prefetch=100, concurrency=1, timeout=20") as service:
        log = service.log_text()
        assert f"handler patient may hold a delivery of queue {queue_name} for 2000 s: prefetch 100" in log
        assert "Lower the prefetch or the timeout, or raise the concurrency" in log
        assert log.count("may hold a delivery") == 1


@pytest.mark.parametrize("said", ["", "prefetch=100, concurrency=1, timeout=17"], ids=["defaults", "just below"])
def test_prefetch_that_is_done_in_time_is_not_warned_of(
    said: str, broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    with _started(broker_url, queue_name, tmp_path, said) as service:
        assert "may hold a delivery" not in service.log_text()
