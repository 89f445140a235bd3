"""A worker that hangs is told from one that is busy, named, and replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGSTOP

import pytest
from pamqp import commands

from tests.broker.apps import Recorded
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

HEARTBEAT_TIMEOUT_S = 8
BUSY_TIMEOUT_S = 4  # which standing in line for a CPU must not use up
TRIES = 3
REPLACED_WITHIN_S = HEARTBEAT_TIMEOUT_S + 20  # on a machine that is busy

BLOCKING = """
    import asyncio
    import os
    from pathlib import Path

    from mxworker import Context, Handlers

    handlers = Handlers()
    marker = Path(os.environ["MARKER"])


    @handlers.consume(os.environ["QUEUE"])
    async def digest(body: str, ctx: Context) -> None:
        marker.with_name(f"started-{ctx.delivery.message_id}").touch()
        if body == "wait":
            await asyncio.sleep(3600)
        if body == "block" and not ctx.delivery.redelivered and not marker.exists():
            marker.touch()
            while True:
                pass
"""


@contextmanager
def _service(url: str, queue: str, folder: Path, *flags: str) -> Iterator[Service]:
    app = write_app(folder, BLOCKING)
    env = {"MXWORKER_BROKER_URL": url, "QUEUE": queue, "MARKER": str(folder / "blocked")}
    timeout = f"--heartbeat-timeout={HEARTBEAT_TIMEOUT_S}s"
    with Service(mxworker_run(app, timeout, *flags, app_dir=folder), folder, env=env) as service:
        service.wait_ready()
        yield service


def test_blocked_loop_is_replaced_and_the_log_names_handler_and_message(
    broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    timeout_s = 12  # on a busy machine it takes seconds of it until a loop that has its CPU counts as blocked
    flags = ("--workers=2", f"--heartbeat-timeout={timeout_s}s")
    with _service(broker_url, queue_name, tmp_path, *flags) as service, Client(broker_url) as client:
        stacks: list[str] = []
        for number in range(TRIES):  # on a busy machine it may be killed before it has told
            (tmp_path / "blocked").unlink(missing_ok=True)
            before = service.wait_workers(2)
            properties = commands.Basic.Properties(message_id="the-culprit", delivery_mode=2, headers={"try": number})
            client.publish(queue_name, [b"block"], properties)
            wait_until((tmp_path / "blocked").exists, 10, "the block")
            blocked_at = time.monotonic()
            wait_until(
                lambda before=before: any(not one.is_alive for one in before), 30, "the end of the blocked worker"
            )
            service.wait_workers(2)
            assert time.monotonic() - blocked_at < timeout_s + 20
            assert sum(worker.is_alive for worker in before) == 1, "the other worker was left alone"
            wait_until(
                lambda number=number: len(service.events("worker_ended", reason="hang")) > number, 10, "its report"
            )
            stacks = [one["stack"] for one in service.events("worker_ended", reason="hang") if one.get("stack")]
            if stacks and service.events("worker_hung"):
                break
        log = service.log_text()
        assert "inside handler digest with message the-culprit" in log
        assert service.events("worker_hung", handler="digest", message_id="the-culprit")
        assert "blocked its event loop and ended after" in log
        told = service.events("event_loop_blocked")[0]
        assert told["level"] == "warning"
        assert (told["handler"], told["queue"], told["message_id"]) == ("digest", queue_name, "the-culprit")
        assert told["place"].startswith(str(tmp_path / "app.py:"))
        stack = stacks[0]
        assert stack.startswith("Fatal Python error: Aborted"), "faulthandler shows all threads"
        frames = [line for line in stack.splitlines() if line.startswith("  File ")]
        assert f'File "{tmp_path / "app.py"}"' in frames[0], "the application's frame is the first"
        assert not any("asyncio" in frame or "mxworker/" in frame for frame in frames)
        wait_until(lambda: client.counts(queue_name).consumers == 2, 10, "both to consume")


def test_stopped_worker_is_replaced_and_its_messages_named(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    with _service(broker_url, queue_name, tmp_path, "--workers=1") as service, Client(broker_url) as client:
        held = [f"held-{number}" for number in range(3)]
        properties = [commands.Basic.Properties(message_id=message_id, delivery_mode=2) for message_id in held]
        client.publish_messages(queue_name, [(b"wait", one) for one in properties])
        wait_until(
            lambda: all((tmp_path / f"started-{message_id}").exists() for message_id in held), 10, "the handlers"
        )
        (worker,) = service.workers()
        worker.signal(SIGSTOP)
        stopped_at = time.monotonic()
        wait_until(lambda: service.workers() not in ([], [worker]), 30, "a new worker")
        assert time.monotonic() - stopped_at < REPLACED_WITHIN_S
        log = service.log_text()
        assert all(message_id in log for message_id in held)
        assert "did not run its event loop (it was stopped, or is stuck in the kernel) and ended" in log
        assert "has blocked" not in log


@pytest.mark.alone
def test_busy_machine_gets_nobody_killed(
    broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    busy_for_s = scale(2, 5) * BUSY_TIMEOUT_S
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with recorded.service("--workers=2", f"--heartbeat-timeout={BUSY_TIMEOUT_S}s") as service:
        service.wait_ready()
        workers = service.workers()
        deadline = time.monotonic() + busy_for_s
        with _hogs(8):
            while time.monotonic() < deadline:
                recorded.publish(50)
                time.sleep(0.2)  # the load over time is the point, nothing is waited for
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
        assert service.workers() == workers
        assert "ABORTING" not in service.log_text()
        assert "has blocked" not in service.log_text()


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    """Keep every core busy with more processes than there are cores."""
    assert count > (os.cpu_count() or 1)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
