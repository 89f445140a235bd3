"""What a message costs the broker: 100 us of CPU are 10,000 messages a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.embedded_broker import measure
from bench.sizes import cpu_ns
from mxworker.devbroker.process import start_broker

MOST_US = 100


@pytest.mark.alone
def test_a_confirmed_and_acked_message_costs_little(scale: Callable[[int, int], int]) -> None:
    messages = scale(10_000, 200_000)
    with start_broker() as broker:
        before_ns = cpu_ns(broker.pid)
        measure(broker.url, messages)
        assert (cpu_ns(broker.pid) - before_ns) / messages / 1000 < MOST_US
