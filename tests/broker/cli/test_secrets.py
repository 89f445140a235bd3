"""A password is in no log at DEBUG, no command line and no environment, whatever happens to the service."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.service import Service, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

USER = "canary"
CANARY = "S3cr3t/x"
WRITTEN = "S3cr3t%2Fx"
TRACE = "S3cr3t"

APP = """
    import os
    import subprocess

    from mxworker import Handlers, Queue

    handlers = Handlers()


    def note_environment(path: str) -> None:
        inherited = subprocess.run(["env"], capture_output=True, check=True).stdout
        with open(path + ".new", "wb") as file:
            file.write(inherited)
        os.rename(path + ".new", path)


    @handlers.consume("QUEUE")
    async def order(payload: bytes) -> None:
        note_environment("environment-of-worker")


    @handlers.consume("QUEUE.cpu", cpu=True, retry=None)
    def report(payload: bytes) -> None:
        note_environment("environment-of-cpu-process")
"""


@pytest.fixture
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
        for beside in ("", ".dlq"):
            client.delete(name + beside)


@pytest.mark.parametrize("command", ["run", "dev"])
@pytest.mark.parametrize("is_typed", [False, True])
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
