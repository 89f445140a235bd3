"""A log that nobody reads stops no handler: its lines are dropped, and counted where people look for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxworker.board.metric_values import ServiceMetrics
from mxworker.control.client import ask
from mxworker.control.metrics_json import metrics_of
from mxworker.control.protocol import Metrics, Status
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0
MESSAGES = 2_000
CPU_LINES = 3_000

APP = """
    import logging
    import os

    from mxworker import Handlers

    handlers = Handlers()
    log = logging.getLogger("shop")


    @handlers.consume(os.environ["QUEUE"])
    async def order(body: bytes) -> None:
        log.info("%s", "x" * 1500)


    @handlers.consume(os.environ["QUEUE"] + ".cpu", cpu=True, concurrency=1)
    def report(body: bytes) -> None:
        for _ in range(CPU_LINES):
            log.info("%s", "x" * 1500)
""".replace("CPU_LINES", str(CPU_LINES))


@pytest.fixture
def cpu_queue(queue_name: str, admin: Client) -> Iterator[str]:
    name = f"{queue_name}.cpu"
    yield name
    for beside in ("", ".dlq"):
        admin.delete(name + beside)


def test_handlers_go_on_while_the_reader_is_stopped_and_the_drops_are_told(
    broker_url: str, queue_name: str, cpu_queue: str, admin: Client, tmp_path: Path
) -> None:
    command = mxworker_run(write_app(tmp_path, APP), "--workers=2", "--log-format=json", app_dir=tmp_path)
    redirected = ["sh", "-c", 'exec "$@" 2>"$0"', str(tmp_path / "pipe"), *command]
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "log").open("wb") as log:
        reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=log)
        try:
            env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name}
            with Service(redirected, tmp_path, env=env) as service:
                wait_until(lambda: events(tmp_path, "service_ready"), PATIENCE_S, "the service")
                reader.send_signal(signal.SIGSTOP)
                admin.publish(queue_name, [b""] * MESSAGES)
                wait_until(
                    lambda: acked(service) == MESSAGES, PATIENCE_S, "all messages, although nobody reads the log"
                )
                wait_until(lambda: dropped(service) > MESSAGES // 4, PATIENCE_S, "the drops in the metrics")
                before = dropped(service)
                admin.publish(cpu_queue, [b""])
                wait_until(lambda: dropped(service) >= before + CPU_LINES, PATIENCE_S, "those of the other process")
                reader.send_signal(signal.SIGCONT)
                wait_until(lambda: told(tmp_path) == dropped(service), PATIENCE_S, "the drops in the log")
                lines = [line for line in records(tmp_path) if line["logger"] == "shop"]
                assert len(lines) + dropped(service) >= MESSAGES
        finally:
            reader.kill()
            reader.wait()


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the lines that were read. Each must be a whole one."""
    read = (folder / "log").read_bytes()
    return [json.loads(line) for line in read[: read.rfind(b"\n") + 1].splitlines()]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in records(folder) if line.get("event") == name]


def told(folder: Path) -> int:
    """Return how many lines were told to be dropped."""
    return sum(line["lines"] for line in events(folder, "log_lines_lost"))


def metrics(service: Service) -> ServiceMetrics:
    (path,) = service.runtime_directory.glob("**/*.sock")
    return metrics_of(ask(path, Metrics(), time.monotonic() + PATIENCE_S)["metrics"])


def dropped(service: Service) -> int:
    return sum(process.log_lines_dropped for process in metrics(service).processes)


def acked(service: Service) -> int:
    (path,) = service.runtime_directory.glob("**/*.sock")
    workers = ask(path, Status(), time.monotonic() + PATIENCE_S)["status"]["workers"]
    return sum(worker["acked"] for worker in workers)
