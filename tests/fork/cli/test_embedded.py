"""`run --embedded` and `dev` without a URL: a broker of their own that outlives all but them."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from mxworker.cli.embedded import DEFAULT_PORT
from mxworker.observer.http.addresses import Address
from tests.harness.processes import Process, children
from tests.harness.saving import save_by_rename
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.harness.wire import Closed, Wire

APP = """
import asyncio
from pathlib import Path

from mxworker import Handlers

handlers = Handlers()


@handlers.consume("orders")
async def order(payload: str) -> None:
    Path(f"began-{payload}").touch()
    if payload == "slow":
        await asyncio.sleep(0.5)
    Path(f"done-{payload}-by-1").touch()
"""
NO_SERVICE_MANAGER = {"INVOCATION_ID": "", "NOTIFY_SOCKET": ""}
BROKER = "mxworker.devbroker"

Begin = Callable[..., Service]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """`begin("run", "--embedded", ...)` runs the command for an app.py of its own."""
    with ExitStack() as running:

        def start(command: str, *options: str, **env: str) -> Service:
            (tmp_path / "app.py").write_text(APP)
            (tmp_path / "temporary").mkdir(exist_ok=True)
            environment = {**NO_SERVICE_MANAGER, "TMPDIR": str(tmp_path / "temporary"), **env}
            arguments = [sys.executable, "-m", "mxworker", command, "app", *options]
            return running.enter_context(Service(arguments, tmp_path, env=environment))

        yield start


def url_of(service: Service) -> str:
    """Return the URL that people paste."""
    found = re.search(r"Clients connect to (amqp://\S+)", service.log_text())
    assert found, service.log_text()
    return found[1]


def broker_of(service: Service) -> Process:
    (broker,) = [child for child in children(service.pid) if BROKER in child.arguments]
    return broker


def has_consumer(url: str) -> bool:
    with Wire(url) as wire, suppress(Closed):
        return wire.channel().counts("orders")[1] > 0
    return False


def publish(url: str, *bodies: str) -> None:
    with Wire(url) as wire:
        channel = wire.channel()
        for body in bodies:
            channel.publish("orders", body.encode())
        channel.sync()


def wait_for_file(path: Path) -> None:
    wait_until(path.exists, 60, path.name)


def test_dev_without_a_url_brings_a_broker_that_outlives_reloads_and_drains(begin: Begin, tmp_path: Path) -> None:
    service = begin("dev", "--log-level=info", MXWORKER_HTTP="127.0.0.1:0", MXWORKER_NO_HTTP="")
    service.wait_ready()
    log = service.log_text()
    assert "Messages are lost when this ends" in log
    assert re.search(r"\nmetrics +http://127\.0\.0\.1:\d+/metrics\n", log)
    assert re.search(r"\nhttp +http://127\.0\.0\.1:\d+/\n", log)
    assert re.search(r"\ncontrol +/\S+\n", log)
    publish(url_of(service), "a")
    wait_for_file(tmp_path / "done-a-by-1")
    save_by_rename(tmp_path / "app.py", APP.replace("by-1", "by-2"))  # a half-written file would be a change too
    service.wait_for_log("reload: all workers are of generation 2")
    publish(url_of(service), "b", "slow")
    wait_for_file(tmp_path / "began-slow")
    service.signal(signal.SIGINT)
    assert service.wait_exit() == 0, service.log_text()
    assert (tmp_path / "done-b-by-2").exists()
    assert "stopped with exit code 0: 3 acked\n" in service.log_text()


def test_broker_of_run_outlives_workers_and_ends_after_the_drain(begin: Begin, tmp_path: Path) -> None:
    service = begin("run", "--embedded", "--workers=1", "--log-format=json")
    service.wait_ready()
    (started,) = service.events("embedded_broker_started")
    broker = broker_of(service)
    for worker in service.workers():
        if worker.pid != broker.pid:
            worker.signal(signal.SIGKILL)
    publish(started["url"], "a")
    wait_for_file(tmp_path / "done-a-by-1")
    publish(started["url"], "slow")
    wait_for_file(tmp_path / "began-slow")
    os.killpg(service.pid, signal.SIGINT)  # as Ctrl-C does
    assert service.wait_exit() == 0, service.log_text()
    assert service.events("service_stopped", acked=2, stale=0)
    assert not broker.is_alive


@pytest.mark.parametrize("command", [("run", "--embedded"), ("dev",)])
def test_broker_that_ends_alone_is_told_of_and_replaced(begin: Begin, tmp_path: Path, command: tuple[str, ...]) -> None:
    service = begin(*command, "--workers=1", "--log-format=json")
    service.wait_ready()
    url = service.events("embedded_broker_started")[0]["url"]
    for number, signum in enumerate((signal.SIGKILL, signal.SIGTERM), 1):  # a child of `dev` inherits blocked signals
        killed = broker_of(service)
        killed.signal(signum)
        wait_until(
            lambda n=number: len(service.events("embedded_broker_restarted", url=url)) == n, 60, "another broker"
        )
        status = -signum if signum == signal.SIGKILL else 0
        (ended,) = service.events("embedded_broker_ended", broker_pid=killed.pid, status=status)
        assert "all its messages are lost" in ended["message"]
    wait_until(lambda: has_consumer(url), 60, "the worker")
    publish(url, "a")
    wait_for_file(tmp_path / "done-a-by-1")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0, service.log_text()
    assert service.survivors() == []


@pytest.mark.parametrize("command", [("run", "--embedded"), ("dev",)])
def test_kill_of_the_outermost_process_leaves_nothing(begin: Begin, tmp_path: Path, command: tuple[str, ...]) -> None:
    service = begin(*command, "--workers=1", "--log-format=text")
    service.wait_for_log("Clients connect to")
    broker = broker_of(service)
    service.signal(signal.SIGKILL)
    service.wait_exit()
    wait_until(lambda: not broker.is_alive and not service.survivors(), 30, "the end of all processes")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_ports_in_use_move_to_the_next_free_ones_and_that_is_said(begin: Begin) -> None:
    with ExitStack() as taken:

        def take(port: int) -> bool:
            with suppress(OSError):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
                return True
            return False

        for port in (DEFAULT_PORT, Address().port):
            with suppress(AssertionError):  # a program that keeps the port is as good
                wait_until(lambda port=port: take(port), 1, "the port")  # type: ignore[misc]
        service = begin("run", "--embedded", "--workers=1", "--log-format=text", MXWORKER_NO_HTTP="")
        service.wait_for_log("Clients connect to")
        port = int(url_of(service).rstrip("/").rpartition(":")[2])
        assert port > DEFAULT_PORT
        assert f"Port {DEFAULT_PORT} is in use, so it took {port}." in service.log_text()
        service.wait_for_log("port 9191 is in use, so HTTP is served on port ")


def test_the_demo_runs_on_a_broker_of_its_own_and_shows_its_page(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "handlers_example.demo", "--orders=500"]
    env = {"TMPDIR": str(tmp_path / "temporary"), "MXWORKER_HTTP": "127.0.0.1:0", "MXWORKER_NO_HTTP": ""}
    with Service(command, tmp_path, env=env) as demo:
        demo.wait_for_log("its page, until the end of the demo: http://")
        broker = broker_of(demo)
        page = re.search(r"its page.*(http://\S+)", demo.log_text())
        assert page
        with urlopen(page[1], timeout=30) as answer:
            assert answer.status == 200
        assert demo.wait_exit() == 0, demo.log_text()
        assert "Every order has met its right end." in demo.output_text()
        assert not broker.is_alive
        assert demo.survivors() == []
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "env"),
    [
        (("run", "--embedded"), {"MXWORKER_ENV": "production"}),
        (("dev",), {"MXWORKER_ENV": "production"}),
        (("run", "--embedded"), {"NOTIFY_SOCKET": "/run/systemd/notify"}),
    ],
)
def test_production_is_refused_in_the_words_of_the_broker(
    begin: Begin, command: tuple[str, ...], env: dict[str, str]
) -> None:
    service = begin(*command, "--log-format=text", **env)
    assert service.wait_exit() == 2
    assert service.log_text().startswith(f"Error: {next(iter(env))}")
    assert "the embedded broker keeps messages in memory only" in service.log_text()


@pytest.mark.parametrize(
    ("command", "env", "text"),
    [
        (("run",), {}, "Error: no broker URL.\n  Try:  mxworker run APP --broker-url amqp://"),
        (("run",), {}, "mxworker run APP --embedded, or mxworker dev APP"),
        (("run", "--embedded", "--broker-url=amqp://x/"), {}, "--embedded starts a broker, and --broker-url names"),
        (("dev", "--embedded"), {"MXWORKER_BROKER_URL": "amqp://x/"}, "and MXWORKER_BROKER_URL names another one"),
    ],
)
def test_broker_that_is_not_clear_is_a_usage_error(
    begin: Begin, command: tuple[str, ...], env: dict[str, str], text: str
) -> None:
    service = begin(*command, "--log-format=text", **env)
    assert service.wait_exit() == 2
    assert text in service.log_text()
