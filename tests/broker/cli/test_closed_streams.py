"""A command whose standard streams are closed works as any other, and takes no other file for them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.harness.repository import REPOSITORY
from tests.harness.scales import among, crossed
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0

APP = """
    import os
    import subprocess
    import sys

    from mxworker import Handlers

    handlers = Handlers()
    queue = os.environ["QUEUE"]


    def show():
        print("printed")
        print("printed", file=sys.stderr)
        sys.stdin.read(0)
        subprocess.run(["sh", "-c", "echo told; echo told >&2"], check=True)
        with open(os.environ["SEEN"], "a") as file:
            file.write(" ".join(os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)) + "\\n")


    @handlers.consume(queue)
    async def in_the_loop(body: bytes) -> None:
        show()


    @handlers.consume(queue + ".cpu", cpu=True)
    def in_a_process(body: bytes) -> None:
        show()
"""

CODES = {
    "--help": 0,
    "no-such-command": 2,
    "status --name=nobody": 1,
    "ctl stop --name=nobody": 1,
    "run no_such_app --broker-url=amqp://127.0.0.1:1/ --workers=1": 3,
    "dev no_such_app --broker-url=nonsense": 2,
}
CLOSED = ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


def closing(closed: str, command: list[str]) -> list[str]:
    return ["sh", "-c", f"exec {shlex.join(command)} {closed}"]


@pytest.mark.parametrize("closed", among(CLOSED, "<&-", "2>&-", "<&- >&- 2>&-"))
def test_service_runs_and_drains(closed: str, broker_url: str, queue_name: str, admin: Client, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name, "SEEN": str(seen)}
    command = closing(closed, mxworker_run(write_app(tmp_path, APP), "--workers=1", app_dir=tmp_path))

    with Service(command, tmp_path, env=env) as service:
        try:
            if "2" in closed:
                wait_until(lambda: service.mxworker("status", "--ready").returncode == 0, PATIENCE_S, "readiness")
            else:
                service.wait_ready()
            admin.publish(queue_name, [b""])
            admin.publish(f"{queue_name}.cpu", [b""])
            wait_until(lambda: seen.exists() and len(seen.read_text().splitlines()) == 2, PATIENCE_S, "both")
            for line in seen.read_text().splitlines():
                stdin, stdout, stderr = line.split()
                assert stdin == os.devnull
                assert (stdout == os.devnull) == (">&-" in closed.split())
                assert (stderr == os.devnull) == ("2>&-" in closed.split())
            service.signal(SIGTERM)
            assert service.wait_exit(PATIENCE_S) == 0
        finally:
            admin.delete(f"{queue_name}.cpu")
            admin.delete(f"{queue_name}.cpu.dlq")


@pytest.mark.parametrize(("command", "closed"), crossed(CODES, CLOSED))
def test_exit_codes_are_as_ever(command: str, closed: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_RUNTIME_DIR": str(tmp_path)}
    line = closing(closed, [sys.executable, "-m", "mxworker", *command.split()])
    assert subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, check=False).returncode == CODES[command]
