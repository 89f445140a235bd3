"""A broker that restarts, or that takes no publishes, under load: nothing is lost, and work goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.broker.apps import Recorded
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

SOON_S = 120.0
ALARM = ("set_vm_memory_high_watermark", "0.00001")
ALL_CLEAR = ("set_vm_memory_high_watermark", "0.4")


@pytest.fixture
def broker(own_node: Callable[..., Node]) -> Node:
    return own_node()


@pytest.fixture(params=["quorum", "classic"])
def recorded(request: pytest.FixtureRequest, broker: Node, tmp_path: Path) -> Recorded:
    made = Recorded(broker.url, tmp_path, "orders", request.param)
    made.declare()
    return made


def test_broker_restarts_under_load(broker: Node, recorded: Recorded, scale: Callable[[int, int], int]) -> None:
    with recorded.service("--workers=2", work_s=0.02) as service:
        service.wait_ready()
        for _ in range(scale(1, 5)):
            due = recorded.handled + 400
            recorded.publish(2_000)
            wait_until(lambda due=due: recorded.handled >= due, SOON_S, "it to be in the middle")
            broker.stop()
            broker.start()
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), SOON_S, "every id")
        service.signal(SIGTERM)
        assert service.wait_exit(SOON_S) == 0
    report = recorded.judge()
    print(report)
    assert report.nothing_lost


def test_memory_alarm_under_load_holds_up_no_handler(
    broker: Node, recorded: Recorded, scale: Callable[[int, int], int]
) -> None:
    with recorded.service("--workers=2", work_s=0.01) as service:
        service.wait_ready()
        for _ in range(scale(1, 5)):
            recorded.publish(2_000)
            broker.ctl(*ALARM)
            try:
                wait_until(lambda: recorded.finished_ids == set(recorded.ids), SOON_S, "every id, during the alarm")
            finally:
                broker.ctl(*ALL_CLEAR)
        service.signal(SIGTERM)
        assert service.wait_exit(SOON_S) == 0
    report = recorded.judge()
    print(report)
    assert report.exactly_once
    with Client(broker.url) as client:
        assert client.counts("orders").messages == 0
