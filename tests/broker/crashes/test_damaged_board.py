"""A handler that damages whatever memory and descriptors it can reach costs its own worker, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

APP = """
    import asyncio
    from pathlib import Path

    from mxworker import Handlers
    from tests.harness.scribbling import FILLS, scribble

    handlers = Handlers()


    def damage(fill: str, descriptors: bool) -> None:
        marker = Path("DIRECTORY/damaging")
        if not marker.exists():
            marker.touch()
            scribble(FILLS[fill], 4.0, descriptors=descriptors)


    @handlers.consume("QUEUE-loop", timeout=60)
    async def in_the_loop(fill: str) -> None:
        damage(fill, descriptors=True)


    @handlers.consume("QUEUE-thread", timeout=60)
    def in_a_thread(fill: str) -> None:
        damage(fill, descriptors=False)


    @handlers.consume("QUEUE-paused")
    async def paused(payload: bytes) -> None:
        Path("DIRECTORY/consumed-though-paused").touch()


    @handlers.consume("QUEUE", prefetch=1)
    async def work(payload: bytes) -> None:
        await asyncio.sleep(0.002)
"""
MESSAGES = 300


def status(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.mxworker("status", "--json").stdout)
    return found


@pytest.mark.parametrize("fill", ["ones", "random"])
@pytest.mark.parametrize(
    ("where", "timeout"),
    [("loop", "10s"), ("thread", "300s")],  # while its loop turns, a worker sees by itself that it was damaged
)
def test_handler_that_damages_all_it_can_reach_costs_its_worker_and_the_others_go_on(
    where: str, timeout: str, fill: str, broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    app = write_app(tmp_path, APP.replace("QUEUE", queue_name).replace("DIRECTORY", str(tmp_path)))
    command = mxworker_run(app, "--workers=3", f"--heartbeat-timeout={timeout}", app_dir=tmp_path)
    with (
        Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url}) as service,
        Client(broker_url) as client,
    ):
        service.wait_ready()
        before = {worker.pid for worker in service.workers()}
        assert service.mxworker("ctl", "pause", f"{queue_name}-paused").returncode == 0
        wait_until(lambda: len(service.events("queue_paused")) == 3, 30, "all workers to pause")
        client.publish(f"{queue_name}-paused", [b"x"])
        client.publish(queue_name, [b"x"] * MESSAGES)
        client.publish(f"{queue_name}-{where}", [fill.encode()])
        wait_until((tmp_path / "damaging").exists, 30, "the damage")
        wait_until(lambda: before - {worker.pid for worker in service.workers()}, 60, "the end of that worker")
        client.publish(queue_name, [b"x"] * MESSAGES)
        wait_until(lambda: status(service)["workers_ready"] == 3, 60, "its replacement")
        wait_until(lambda: client.counts(queue_name).messages == 0, 60, "all to be consumed")
        wait_until(lambda: sum(worker["in_flight"] for worker in status(service)["workers"]) == 0, 60, "all to be done")
        after = status(service)
        assert len(before - {worker.pid for worker in service.workers()}) == 1
        assert after["paused"] == {"all": False, "queues": [f"{queue_name}-paused"]}
        assert not (tmp_path / "consumed-though-paused").exists()
        acked = sum(worker["acked"] for worker in after["workers"])
        assert MESSAGES <= acked <= 2 * MESSAGES + 2, "of that worker, what it had done by the last look"
        if where == "thread":
            assert service.log_text().count("to its slot of the board what makes no sense") == 1
