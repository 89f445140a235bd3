"""The publisher of the compose file: it sends orders to the example shop for as long as it runs."""

from __future__ import annotations

import os
import subprocess
import sys

from mxworker import Queue
from tests.harness.repository import REPOSITORY
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.processes import DIES_WITH_PARENT


def test_orders_arrive_one_after_another(broker_url: str, queue_name: str, admin: Client) -> None:
    orders = f"{queue_name}orders"
    admin.declare(orders, arguments=Queue(orders, dead_letter=False).declared_arguments())
    paths = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "conf" / "compose")])}
    environment = {**os.environ, **paths, "MXWORKER_BROKER_URL": broker_url, "SHOP_PREFIX": queue_name}
    with subprocess.Popen([*DIES_WITH_PARENT, sys.executable, "-m", "orders"], env=environment) as publishing:
        try:
            wait_until(lambda: admin.counts(orders).messages >= 3, 30, "three orders")
        finally:
            publishing.terminate()
    first = admin.get(orders)
    assert first is not None
    assert b"customer" in first.body
    admin.delete(orders)
