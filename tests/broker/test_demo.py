"""The demo keeps what `make demo` promises: it accounts for every order and ends by itself, whatever happens to it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

import orjson
import pytest

from tests.harness.processes import Process, children
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

ORDERS = 500
MORE_THAN_IT_CAN_DO_MEANWHILE = 50_000
ENOUGH_S = 60.0


def demo(url: str, folder: Path, orders: int) -> Service:
    command = [sys.executable, "-m", "handlers_example.demo", f"--orders={orders}", f"--out={folder / 'results'}"]
    return Service(command, folder, name="demo", env={"MXWORKER_BROKER_URL": url})


def handled(folder: Path) -> list[Path]:
    return list((folder / "results" / "invoices").glob("*.json"))


def wait_for_work(folder: Path) -> None:
    wait_until(lambda: len(handled(folder)) > 20, ENOUGH_S, "the first invoices")


def supervised(demo: Service) -> Process:
    """Return the master that the demo has started."""
    (master,) = children(demo.pid)
    return master


def queue_of(folder: Path) -> str:
    found = re.search(r"mxworker-demo-[0-9a-f]{8}", (folder / "results" / "service.log").read_text())
    assert found, "the service has logged no queue"
    return found[0]


def assert_nothing_is_left(demo: Service, folder: Path, admin: Client) -> None:
    assert demo.survivors() == []
    assert not admin.exists(queue_of(folder))
    assert not admin.exists(f"{queue_of(folder)}.dlq")


def test_every_order_is_handled_or_refused(broker_url: str, tmp_path: Path, admin: Client) -> None:
    with demo(broker_url, tmp_path, ORDERS) as running:
        assert running.wait_exit(ENOUGH_S) == 0, running.log_text()
        summary = running.output_text()
        assert_nothing_is_left(running, tmp_path, admin)
    assert re.search(r"sent +500 ", summary)
    assert re.search(r"handled +490 ", summary)
    assert re.search(r"refused +10 ", summary)
    assert re.search(r"[1-9][0-9,]* +messages per second", summary)
    assert re.search(r"\d+\.\d\d +ms p50, \d+\.\d\d ms p95", summary)
    assert len(handled(tmp_path)) == 490
    assert all(orjson.loads(path.read_bytes())["total_cents"] > 0 for path in handled(tmp_path))


def test_a_killed_worker_costs_no_order(broker_url: str, tmp_path: Path) -> None:
    with demo(broker_url, tmp_path, 3_000) as running:
        wait_for_work(tmp_path)
        children(supervised(running).pid)[0].signal(SIGKILL)
        assert running.wait_exit(ENOUGH_S) == 0, running.log_text()
        assert re.search(r"handled +2,940 ", running.output_text())


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP])
def test_an_interrupted_demo_drains_its_service(
    broker_url: str, tmp_path: Path, admin: Client, number: Signals
) -> None:
    with demo(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_for_work(tmp_path)
        running.signal(number)
        assert running.wait_exit(ENOUGH_S) == 130, running.log_text()
        assert "Interrupted" in running.log_text()
        assert "STOPPING -> EMPTY (stop)" in (tmp_path / "results" / "service.log").read_text()
        assert_nothing_is_left(running, tmp_path, admin)


def test_a_dead_service_ends_the_demo_with_its_log(broker_url: str, tmp_path: Path, admin: Client) -> None:
    with demo(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_for_work(tmp_path)
        supervised(running).signal(SIGKILL)
        assert running.wait_exit(ENOUGH_S) == 1
        assert "the service ended with -9" in running.log_text()
        wait_until(lambda: not running.survivors(), ENOUGH_S, "the end of its workers")
        assert_nothing_is_left(running, tmp_path, admin)


def test_a_wrong_count_is_told(broker_url: str, tmp_path: Path) -> None:
    with demo(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE // 10) as running:
        wait_for_work(tmp_path)
        # A stray file makes the demo believe that all is done one order too early, or see one invoice too many.
        (tmp_path / "results" / "invoices" / "stray.json").touch()
        assert running.wait_exit(ENOUGH_S) == 1
        assert "the count is wrong" in running.log_text()


def test_a_lost_broker_ends_the_demo(own_node: Callable[..., Node], tmp_path: Path) -> None:
    node = own_node()
    with demo(node.url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_for_work(tmp_path)
        node.kill()
        assert running.wait_exit(ENOUGH_S) == 1
        assert "Error:" in running.log_text()
        assert "Traceback" not in running.log_text()


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [("", 2, "MXWORKER_BROKER_URL"), ("http://x/", 2, "amqp://"), ("amqp://127.0.0.1:1/", 1, "no connection to")],
)
def test_a_broker_that_cannot_be_used_is_told(tmp_path: Path, url: str, code: int, text: str) -> None:
    with demo(url, tmp_path, ORDERS) as running:
        assert running.wait_exit(ENOUGH_S) == code
        assert text in running.log_text()
        assert "Traceback" not in running.log_text()
