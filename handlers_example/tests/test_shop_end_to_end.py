"""The shop as a service: processes, a broker, files. `--mx-broker-url` runs these tests on a RabbitMQ."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers_example import shop
from handlers_example.tests.orders import order, paid_id, unreachable_id
from mxworker.testing import BrokerUnderTest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOP_FOLDER", str(tmp_path))  # the service gets it
    return tmp_path


def test_orders_become_invoices_labels_and_dead_letters(mx_broker: BrokerUnderTest, folder: Path) -> None:
    mx_broker.timeout = 60
    mx_broker.run("handlers_example.shop:handlers", timeout=90)
    mx_broker.publish(shop.ORDERS, order(paid_id()))
    mx_broker.publish(shop.ORDERS, order(unreachable_id()))
    mx_broker.wait_idle()
    assert (folder / "invoices" / f"{paid_id()}.json").exists()
    assert (folder / "labels" / f"{paid_id()}.png").exists()

    mx_broker.advance(3)  # the delays of three retries: with jitter up to 0.5, 1 and 1 s
    (dead,) = mx_broker.wait_for(f"{shop.PAYMENTS}.dlq")
    assert dead.headers["mx-attempts"] == 4
    assert dead.payload["order_id"] == unreachable_id()
