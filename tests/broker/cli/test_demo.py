"""The demo keeps what `make demo` promises: it accounts for every order and ends by itself, whatever happens to it."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

import orjson
import pytest

from handlers_example import shop
from handlers_example.demo.accounts import expected
from handlers_example.demo.broker import connected
from handlers_example.demo.orders import samples
from mxworker.api.handlers import compile_handlers
from mxworker.brokers import BrokerUrl
from tests.harness.processes import Process, children
from tests.harness.scales import among
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client, Received
from tests.rabbit.node import Node

ORDERS = 500
FEW_ORDERS = 150  # their last retries still leave a second to break into
MORE_THAN_IT_CAN_DO_MEANWHILE = 50_000
MORE_THAN_IT_CAN_DO_AT_ONCE = 400
TURNS_OF_A_REQUEST = range(0, 40, 2)  # of the event loop, from before the request to after its answer
ENOUGH_S = 60.0
TERMINAL_COLUMNS = 80
OF_A_SHOP = {"SHOP_PREFIX": "somebodys-", "SHOP_FOLDER": "/nowhere"}
"""What the shell of somebody who runs the shop may hold; the demo keeps away from it."""


def demo(url: str, folder: Path, orders: int, *flags: str) -> Service:
    return demo_without_a_folder(url, folder, orders, f"--out={folder / 'results'}", *flags)


def demo_without_a_folder(url: str, folder: Path, orders: int, *flags: str) -> Service:
    """Start the demo as `make demo` does; what it calls temporary is in `temporary(folder)`."""
    temporary(folder).mkdir()
    command = [sys.executable, "-m", "handlers_example.demo", f"--orders={orders}", *flags]
    env = {"MXWORKER_BROKER_URL": url, "TMPDIR": str(temporary(folder)), **OF_A_SHOP}
    return Service(command, folder, name="demo", env=env)


def temporary(folder: Path) -> Path:
    return folder / "tmp"


def handled(folder: Path) -> list[Path]:
    return list((folder / "results" / "invoices").glob("*.json"))


def wait_for_work(folder: Path) -> None:
    wait_until(lambda: len(handled(folder)) > 20, ENOUGH_S, "the first invoices")


def supervised(demo: Service) -> Process:
    """Return the master that the demo has started."""
    (master,) = children(demo.pid)
    return master


def log_of_service(folder: Path) -> str:
    log = folder / "results" / "service.log"
    return log.read_text() if log.exists() else ""


def prefix_of(folder: Path) -> str:
    found = re.search(r"mxworker-demo-[0-9a-f]{8}-", log_of_service(folder))
    assert found, "the service has logged no queue"
    return found[0]


def assert_nothing_is_left(demo: Service, folder: Path, admin: Client) -> None:
    assert demo.survivors() == []
    for handler in compile_handlers(shop.handlers):
        queue = handler.queue
        for name in (queue.name, queue.dead_letter_name, *map(queue.retry_name, handler.retry_steps_ms)):
            assert not admin.exists(prefix_of(folder) + name)


def test_every_order_meets_its_right_end(broker_url: str, tmp_path: Path, admin: Client) -> None:
    right = expected(samples(ORDERS))
    with demo(broker_url, tmp_path, ORDERS) as running:
        assert running.wait_exit(ENOUGH_S) == 0, running.log_text()
        summary = running.output_text()
        assert_nothing_is_left(running, tmp_path, admin)
    assert re.search(r"orders +typed, async +490 +0 +10 ", summary)
    assert re.search(rf"payments +retries +{len(right.invoiced)} +[1-9]\d* +{len(right.unpaid)} ", summary)
    assert re.search(rf"stock +batches +{len(right.booked)} +0 +{len(right.by_truck)} ", summary)
    assert re.search(rf"invoices +sync, in threads +{len(right.invoiced)} +0 +0 ", summary)
    assert re.search(rf"labels +cpu=True +{len(right.labelled)} +0 +0 ", summary)
    assert re.search(r"mx-attempts +4\n", summary)
    assert re.search(r"mx-error-type +Unreachable\n", summary)
    assert "Every order has met its right end." in summary
    assert len(handled(tmp_path)) == len(right.invoiced)
    assert all(orjson.loads(path.read_bytes())["total_cents"] > 0 for path in handled(tmp_path))


def test_the_demo_leaves_no_file_fits_a_terminal_and_tells_how_to_go_on(broker_url: str, tmp_path: Path) -> None:
    with demo_without_a_folder(broker_url, tmp_path, FEW_ORDERS) as running:
        assert running.wait_exit(ENOUGH_S) == 0, running.log_text()
        told = running.output_text()
        assert list(running.runtime_directory.iterdir()) == []
        lines = (told + running.log_text()).replace(str(temporary(tmp_path)), "/tmp").splitlines()
    assert list(temporary(tmp_path).iterdir()) == []
    assert [line for line in lines if len(line) > TERMINAL_COLUMNS] == []
    command = re.search(r"\n  (\S+/mxworker run handlers_example\.shop)\n", told)
    assert command, told
    shop_environment = {"MXWORKER_BROKER_URL": broker_url, "SHOP_PREFIX": f"{tmp_path.name}-", "SHOP_FOLDER": "shop"}
    with Service(command[1].split(), tmp_path, env=shop_environment) as service:
        service.wait_ready(ENOUGH_S)


def test_an_interrupted_demo_leaves_no_file(broker_url: str, tmp_path: Path) -> None:
    with demo_without_a_folder(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_until(lambda: list(temporary(tmp_path).glob("*/invoices/*.json")), ENOUGH_S, "the first invoices")
        running.signal(SIGINT)
        assert running.wait_exit(ENOUGH_S) == 130, running.log_text()
    assert list(temporary(tmp_path).iterdir()) == []


def test_a_failed_demo_keeps_its_files_and_names_them(broker_url: str, tmp_path: Path) -> None:
    with demo_without_a_folder(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_until(lambda: list(temporary(tmp_path).glob("*/invoices/*.json")), ENOUGH_S, "the first invoices")
        supervised(running).signal(SIGKILL)
        assert running.wait_exit(ENOUGH_S) == 1
        (kept,) = temporary(tmp_path).iterdir()
        assert f"What the shop wrote, and its log: {kept}\n" in running.log_text()


def test_a_killed_worker_costs_no_order(broker_url: str, tmp_path: Path) -> None:
    with demo(broker_url, tmp_path, 600) as running:
        wait_for_work(tmp_path)
        children(supervised(running).pid)[0].signal(SIGKILL)
        assert running.wait_exit(ENOUGH_S) == 0, running.log_text()
        assert "signal 9" in log_of_service(tmp_path) or "SIGKILL" in log_of_service(tmp_path)


def steal_from(queue: str, admin: Client) -> bytes:
    """Take a message out of `queue` before the service does, and return its body."""
    stolen: list[Received] = []

    def is_stolen() -> bool:
        stolen.extend(filter(None, [admin.get(queue)]))
        return bool(stolen)

    wait_until(is_stolen, ENOUGH_S, "an order to steal")
    return stolen[0].body


def test_a_lost_order_is_told_by_its_id(broker_url: str, tmp_path: Path, admin: Client) -> None:
    with demo(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_AT_ONCE, "--patience=8") as running:
        wait_until(lambda: "Ready in" in log_of_service(tmp_path), ENOUGH_S, "the service")
        stolen = steal_from(f"{prefix_of(tmp_path)}orders", admin)
        assert running.wait_exit(3 * ENOUGH_S) == 1
        order_id = orjson.loads(stolen)["id"]
        assert "nothing has moved for 8 s" in running.log_text()
        assert f"booked: 1 missing, {order_id}" in running.log_text()


@pytest.mark.parametrize("number", among([SIGINT, SIGTERM, SIGHUP], SIGINT, SIGTERM))
def test_an_interrupted_demo_drains_its_service(
    broker_url: str, tmp_path: Path, admin: Client, number: Signals
) -> None:
    with demo(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_for_work(tmp_path)
        running.signal(number)
        assert running.wait_exit(ENOUGH_S) == 130, running.log_text()
        assert "Interrupted" in running.log_text()
        assert "stopped with exit code 0" in log_of_service(tmp_path)
        assert_nothing_is_left(running, tmp_path, admin)


async def test_queues_are_deleted_wherever_a_request_is_cancelled(broker_url: str, admin: Client) -> None:
    for turns in TURNS_OF_A_REQUEST:
        prefix = f"mxworker-demo-{uuid.uuid4().hex[:8]}-"
        async with connected(BrokerUrl.parse(broker_url), prefix) as broker:
            for queue in ("orders", "orders.dlq"):
                admin.declare(prefix + queue)
            taking = asyncio.create_task(broker.take_dead_letters("orders"))
            for _ in range(turns):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait({taking})
        assert not admin.exists(f"{prefix}orders")
        assert not admin.exists(f"{prefix}orders.dlq")


def test_a_dead_service_ends_the_demo_with_its_log(broker_url: str, tmp_path: Path, admin: Client) -> None:
    with demo(broker_url, tmp_path, MORE_THAN_IT_CAN_DO_MEANWHILE) as running:
        wait_for_work(tmp_path)
        supervised(running).signal(SIGKILL)
        assert running.wait_exit(ENOUGH_S) == 1
        assert "the service ended with -9" in running.log_text()
        wait_until(lambda: not running.survivors(), ENOUGH_S, "the end of its workers")
        assert_nothing_is_left(running, tmp_path, admin)


def test_a_file_too_many_is_told(broker_url: str, tmp_path: Path) -> None:
    with demo(broker_url, tmp_path, FEW_ORDERS) as running:
        wait_for_work(tmp_path)
        (tmp_path / "results" / "invoices" / "stray.json").touch()
        assert running.wait_exit(ENOUGH_S) == 1
        assert "the accounts do not balance.\n  invoiced: 1 too many, stray\n" in running.log_text()


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
    [("http://x/", 2, "amqp://"), ("amqp://127.0.0.1:1/", 1, "no connection to")],
)
def test_a_broker_that_cannot_be_used_is_told(tmp_path: Path, url: str, code: int, text: str) -> None:
    with demo(url, tmp_path, ORDERS) as running:
        assert running.wait_exit(ENOUGH_S) == code
        assert text in running.log_text()
        assert "Traceback" not in running.log_text()
