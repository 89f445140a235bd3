"""A password is in no log at DEBUG, no command line and no environment, whatever happens; nor is a body in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.scales import FULL_ONLY
from tests.harness.service import Service, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

USER = "canary"
CANARY = "S3cr3t/x"
WRITTEN = "S3cr3t%2Fx"
TRACE = "S3cr3t"

APP = """
    import subprocess
    from pathlib import Path

    from mxworker import Handlers, Queue
    from tests.harness.saving import save_by_rename

    handlers = Handlers()


    def note_environment(path: str) -> None:
        inherited = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
        save_by_rename(Path(path), inherited)


    @handlers.consume("QUEUE")
    async def order(payload: bytes) -> None:
        note_environment("environment-of-worker")


    @handlers.consume("QUEUE.cpu", cpu=True, retry=None)
    def report(payload: bytes) -> None:
        note_environment("environment-of-cpu-process")
"""

FAILING = """
    import os
    import signal
    import time
    from dataclasses import dataclass

    from mxworker import Context, Handlers

    handlers = Handlers()


    @dataclass
    class Order:
        number: int


    @handlers.consume("QUEUE", retry=None)
    async def order(payload: Order) -> None: ...


    @handlers.consume("QUEUE.bytes", retry=None, timeout=0.5, concurrency=1)
    async def take(payload: bytes, ctx: Context) -> object:
        match payload[:1]:
            case b"1":
                raise ValueError("no good")
            case b"2":
                return payload.decode()
            case b"3":
                await ctx.publisher.publish(payload, routing_key="no such queue")
            case b"4":
                await ctx.publisher.publish({"a": object()}, routing_key="QUEUE")
            case b"5":
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(30)


    @handlers.consume("QUEUE.cpu", cpu=True, retry=None, timeout=1)
    def report(payload: bytes) -> None:
        if payload[:1] == b"1":
            os._exit(3)
        time.sleep(30)
"""
BODY = "B0dy-of-a-message"


@pytest.fixture(scope="module")
def url(node: Node) -> Iterator[str]:
    """The URL of a user whose password is the canary."""
    node.ctl("add_user", USER, CANARY)
    node.ctl("set_permissions", USER, ".*", ".*", ".*")
    yield node.url.replace("guest:guest", f"{USER}:{WRITTEN}")
    node.ctl("delete_user", USER)


@pytest.fixture
def cpu_queue(queue_name: str, node: Node) -> Iterator[str]:
    name = f"{queue_name}.cpu"
    yield name
    with Client(node.url) as client:
        for kind in ("cpu", "bytes"):
            for beside in ("", ".dlq", ".quarantine"):
                client.delete(f"{queue_name}.{kind}{beside}")


@pytest.mark.parametrize(
    ("command", "is_typed"),
    [
        ("run", False),
        pytest.param("run", True, marks=FULL_ONLY),  # test_start.py looks at it
        pytest.param("dev", False, marks=FULL_ONLY),
        ("dev", True),
    ],
)
def test_password_shows_nowhere(
    command: str, is_typed: bool, url: str, node: Node, queue_name: str, cpu_queue: str, tmp_path: Path
) -> None:
    app = write_app(tmp_path, APP.replace("QUEUE", queue_name))
    line = [sys.executable, "-m", "mxworker", command, app, "--workers=2", "--log-level=debug"]
    typed, env = ([f"--broker-url={url}"], {}) if is_typed else ([], {"MXWORKER_BROKER_URL": url})
    with Service([*line, *typed], tmp_path, env=env) as service:
        service.wait_ready()
        node.ctl("close_all_user_connections", USER, "test")
        service.wait_for_log("CONNECTION_FORCED")
        with Client(node.url) as client:
            client.publish(queue_name, [b""])
            client.publish(cpu_queue, [b""])
        noted = [tmp_path / "environment-of-worker", tmp_path / "environment-of-cpu-process"]
        wait_until(lambda: all(file.exists() for file in noted), 30, "the handlers")
        shown = [
            Path(f"/proc/{process.pid}/{file}") for process in service.survivors() for file in ("cmdline", "environ")
        ]
        assert len(shown) >= 2 * 4  # of the master, two workers and a process for cpu handlers
        assert [str(file) for file in [*noted, *shown] if TRACE in file.read_text("utf-8", "replace")] == []
        assert b"PATH=" in noted[0].read_bytes()
        assert TRACE not in service.log_text()


def test_password_and_body_show_nowhere_when_things_go_wrong(
    url: str, node: Node, queue_name: str, cpu_queue: str, tmp_path: Path
) -> None:
    app = write_app(tmp_path, FAILING.replace("QUEUE", queue_name))
    flags = [
        "--workers=1",
        "--log-level=debug",
        "--heartbeat-timeout=5s",
        "--quarantine-after=1",
        "--max-body-size=1000",
    ]
    command = [sys.executable, "-m", "mxworker", "run", app, *flags]
    with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": url}) as service:
        service.wait_ready()
        with Client(node.url) as client:
            client.publish(queue_name, [f'{{"number": "{BODY}"}}'.encode(), f"{{{BODY}".encode()])
            client.publish(cpu_queue, [f"{kind}{BODY}".encode() for kind in (1, 2)])
            client.publish(f"{queue_name}.bytes", [f"{kind}{BODY}".encode() for kind in range(1, 5)])
            client.publish(f"{queue_name}.bytes", [BODY.encode() * 100])
            wait_until(lambda: client.counts(f"{queue_name}.dlq").messages == 2, 60, "the undecodable")
            wait_until(lambda: client.counts(f"{cpu_queue}.dlq").messages == 2, 60, "those of other processes")
            wait_until(lambda: client.counts(f"{queue_name}.bytes.dlq").messages == 5, 60, "the failed")
            client.publish(f"{queue_name}.bytes", [f"5{BODY}".encode()])
        service.wait_for_event("worker_ended")
        service.wait_for_event("delivery_quarantined")
        node.ctl("change_password", USER, "another")
        node.ctl("close_all_user_connections", USER, "test")
        service.wait_for_log("ACCESS_REFUSED")
        node.ctl("change_password", USER, CANARY)
        told = service.log_text()
    assert TRACE not in told
    assert BODY not in told
    refused = url.replace(WRITTEN, f"{WRITTEN}-not")
    with Service(
        [*command, "--connect-wait=30s"], tmp_path, name="refused", env={"MXWORKER_BROKER_URL": refused}
    ) as service:
        assert service.wait_exit() == 4
        assert "ACCESS_REFUSED" in service.log_text()
        assert TRACE not in service.log_text()
