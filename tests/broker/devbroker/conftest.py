"""The two brokers that the conformance suite compares, and what its tests need of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mxworker.devbroker.control import BrokerControl
from mxworker.devbroker.process import BrokerProcess
from tests.harness.wire import Channel, Closed, Wire
from tests.rabbit.node import Node

BLOCKING_WATERMARK, USUAL_WATERMARK = "0.00000001", "0.4"


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


@pytest.fixture(scope="package")
def refusing_node(node: Node) -> Iterator[Node]:
    """The shared node. Its log may show the 406s that the tests of this folder provoke."""
    last = f"last-of-{uuid.uuid4().hex}"
    with node.expect_precondition_failed():
        yield node
        with Wire(node.url) as wire, pytest.raises(Closed):
            wire.channel().declare(last, arguments={"x-message-ttl": -1})
        wait_for(lambda: last in node.log_text())


def _peers(control: BrokerControl) -> Callable[[float], Any]:
    return lambda seconds: control.advance(seconds, peers=True)


@dataclass
class Broker:
    """One of both brokers."""

    kind: str
    url: str
    pass_s: Callable[[float], Any]
    """Let time pass for the messages and queues of the broker."""
    pass_for_clients_s: Callable[[float], Any]
    """Let time pass for the broker's heartbeats."""
    block: Callable[[], Any]
    unblock: Callable[[], Any]

    @property
    def is_embedded(self) -> bool:
        return self.kind == "embedded"


@pytest.fixture(params=["rabbitmq", "embedded"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The broker under test: each test runs against both."""
    if request.param == "rabbitmq":
        if request.node.get_closest_marker("slow_on_rabbitmq") and not request.config.getoption("--full"):
            pytest.skip("takes seconds on RabbitMQ: --full runs it there too")
        node: Node = request.getfixturevalue("refusing_node")
        yield Broker(
            "rabbitmq",
            node.url,
            time.sleep,
            time.sleep,
            lambda: node.ctl("set_vm_memory_high_watermark", BLOCKING_WATERMARK),
            lambda: node.ctl("set_vm_memory_high_watermark", USUAL_WATERMARK),
        )
        return
    process: BrokerProcess = request.getfixturevalue("embedded")
    with process.control() as control:
        yield Broker("embedded", process.url, control.advance, _peers(control), control.block, control.unblock)


@pytest.fixture
def wire(broker: Broker) -> Iterator[Wire]:
    """A connection to it."""
    with Wire(broker.url) as connected:
        yield connected


@pytest.fixture
def channel(wire: Wire) -> Channel:
    """A channel of that connection."""
    return wire.channel()


@pytest.fixture
def name() -> str:
    """A name that nobody else uses."""
    return f"conformance-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def queue(channel: Channel, name: str) -> str:
    """A classic queue that goes with its connection."""
    channel.declare(name, exclusive=True)
    return name
