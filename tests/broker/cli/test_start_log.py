"""What an operator reads on a terminal, or in a JSON log: at the start, without a broker, and in a drain."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest

from tests.harness.repository import REPOSITORY
from tests.harness.scales import among
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.ports import free_port

APP = """
    import asyncio
    import os

    from mxworker import Handlers

    handlers = Handlers()


    @handlers.consume("QUEUE")
    async def order(payload: dict) -> None:
        await asyncio.sleep(float(os.environ.get("WORK_S", "0")))
"""
REFUSED = """
    from mxworker import Handlers, Queue

    handlers = Handlers()


    @handlers.consume(Queue("nowhere", declare="passive", dead_letter=False), retry=None)
    async def order(payload: dict) -> None:
        pass
"""
# Bad in one way each, with the exit code and the beginning of the text.
FAILED_STARTS = {
    "import": ("import no_such_thing\n", 3, "'app' was found but failed to import:"),
    "handlers": ("from mxworker import Handlers\nhandlers = Handlers()\n", 3, "'app:handlers' has no handlers."),
    "topology": (REFUSED, 4, "broker refused queue 'nowhere': 404 NOT_FOUND"),
    "crash": ("import os\nos._exit(1)\n", 5, "no worker ever became ready"),
}


@pytest.fixture
def folder(tmp_path: Path, queue_name: str) -> Path:
    write_app(tmp_path, APP.replace("QUEUE", queue_name))
    return tmp_path


def run(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mxworker run` in `folder` to its end."""
    with tempfile.TemporaryDirectory(prefix="mx-") as runtime:
        return subprocess.run(
            [sys.executable, "-m", "mxworker", "run", "app:handlers", "--workers=3", *arguments],
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(REPOSITORY),
                "XDG_RUNTIME_DIR": runtime,
                "MXWORKER_BROKER_URL": url,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@contextmanager
def serving(folder: Path, url: str, *flags: str, work_s: float = 0.0) -> Iterator[Service]:
    command = mxworker_run("app:handlers", *flags, app_dir=folder)
    with Service(command, folder, env={"MXWORKER_BROKER_URL": url, "WORK_S": str(work_s)}) as service:
        service.wait_ready()
        yield service


def objects(text: str) -> list[dict[str, Any]]:
    """Return the records of a JSON log; every line has to be one."""
    return [json.loads(line) for line in text.splitlines()]


def in_flight(service: Service) -> int:
    told = json.loads(service.mxworker("status", "--json").stdout)
    return sum(worker["in_flight"] for worker in told["workers"])


@pytest.mark.parametrize("workers", among([2, 8], 2))
def test_plain_start_has_a_line_for_each_fact_and_each_worker(folder: Path, broker_url: str, workers: int) -> None:
    with serving(folder, broker_url, f"--workers={workers}", "--log-format=text") as service:
        lines = service.log_text().splitlines()
    assert sum(" is ready: RabbitMQ " in line for line in lines) == workers
    assert lines[-1].startswith("Ready in ")
    warned = sum("this runs as root" in line for line in lines)  # as the tests may
    assert len(lines) <= 9 + workers + warned, lines
    assert not any("->" in line or "queue" in line for line in lines), "states, and what the facts say already"


@pytest.mark.parametrize("how", FAILED_STARTS)
def test_failed_start_says_its_error_once_and_last(folder: Path, broker_url: str, how: str) -> None:
    source, code, text = FAILED_STARTS[how]
    write_app(folder, source)
    ended = run(folder, broker_url, "--log-format=text")
    assert ended.returncode == code
    assert ended.stderr.count(text) == 1
    assert "\\x0a" not in ended.stderr
    last = ended.stderr[ended.stderr.index("Error: ") :].splitlines()
    assert last[0].startswith(f"Error: {text}")
    assert all(line.startswith("  ") for line in last[1:]), "nothing follows"


@pytest.mark.parametrize("how", among(FAILED_STARTS, "import", "topology"))
def test_failed_start_is_a_record_of_a_json_log(folder: Path, broker_url: str, how: str) -> None:
    source, code, text = FAILED_STARTS[how]
    write_app(folder, source)
    last = objects(run(folder, broker_url, "--log-format=json").stderr)[-1]
    assert (last["level"], last["exit_code"]) == ("error", code)
    assert last["message"].startswith(text)


def test_setting_that_cannot_be_used_is_a_record_of_a_json_log(folder: Path, broker_url: str) -> None:
    (record,) = objects(run(folder, broker_url, "--log-format=json", "--burst", "--max-age=1h").stderr)
    assert (record["level"], record["exit_code"]) == ("error", 2)
    assert record["message"] == "--burst and --max-age exclude each other: in a burst no worker is replaced."


def test_missing_broker_is_told_by_one_worker_with_the_time_that_is_left(folder: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    ended = run(folder, f"amqp://{place}/", "--connect-wait=4s", "--log-format=text")
    assert ended.returncode == 4
    told = [line for line in ended.stderr.splitlines() if " mxworker.amqp" in line]
    assert len(told) == 1
    assert "no broker at amqp://guest:***@" + place in told[0]
    assert re.search(r"connection refused; trying for [1-4] s more$", told[0])
    assert ended.stderr.count("Error: no broker at") == 1


def test_drain_says_what_it_waits_for_and_what_ctrl_c_does(folder: Path, broker_url: str, queue_name: str) -> None:
    with (
        serving(folder, broker_url, "--workers=1", "--drain-timeout=90s", work_s=60) as service,
        Client(broker_url) as client,
    ):
        client.publish(queue_name, [b"{}"] * 3)
        wait_until(lambda: in_flight(service) == 3, 30, "three handlers at work")
        service.signal(SIGINT)
        service.wait_for_log("draining: waiting up to 90 s for 3 handlers: order (3); Ctrl-C again cancels them")
        service.signal(SIGINT)
        service.wait_for_log("cancelling 3 handlers: order (3); the broker delivers again what is not done")
        assert service.wait_exit() == 130
        (draining,) = [one for one in service.log_records() if one["message"].startswith("draining")]
        assert draining["handlers"] == {"order": 3}
        stopped = service.log_records()[-1]
        assert (stopped["exit_code"], stopped["acked"]) == (130, 0)
        client.delete(queue_name)


def test_configuration_file_is_named_at_the_start_and_its_values_count(
    folder: Path, broker_url: str, queue_name: str
) -> None:
    (folder / "mxworker.toml").write_text(
        f'workers = 8\nburst = true\n[queues."{queue_name}"]\nconcurrency = 5\nprefetch = "30/workers"\n'
    )
    ended = run(folder, broker_url, "--log-format=text")
    assert ended.returncode == 0
    assert "\nsettings    mxworker.toml\n" in ended.stderr
    assert f"consuming   {queue_name}  order()  concurrency 5, prefetch 10, timeout 30s" in ended.stderr
    (folder / "mxworker.toml").write_text("worker = 8\n")
    (record,) = objects(run(folder, broker_url, "--log-format=json").stderr)
    assert record["exit_code"] == 2
    assert record["message"] == "mxworker.toml, line 1: there is no setting 'worker'; did you mean 'workers'?"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ("--heartbeat-timeout=1s",),
            "'1s' is not a time of at least 2s and at most 8760h: workers beat once",
        ),
        (("--log-format", "json", "--worker=1"), "No such option '--worker'"),
    ],
)
def test_command_line_that_is_wrong_is_a_record_of_a_json_log(folder: Path, flags: tuple[str, ...], text: str) -> None:
    (record,) = objects(run(folder, "amqp://nowhere/", *flags).stderr)
    assert (record["level"], record["event"], record["exit_code"]) == ("error", "command_refused", 2)
    assert text in record["message"]
    assert run(folder, "amqp://nowhere/", "--log-format", "text", flags[-1]).stderr.startswith("Usage: ")
