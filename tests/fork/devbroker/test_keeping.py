"""A service keeps its embedded broker going without waiting for it, whatever stands in the way."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from mxworker.devbroker.keeping import KeptBroker
from mxworker.devbroker.process import start_broker
from mxworker.devbroker.settings import Settings
from tests.harness.waiting import wait_until
from tests.harness.wire import Wire
from tests.rabbit.ports import free_port

HALF_A_MINUTE_NS = 30_000_000_000


def act_until(kept: KeptBroker, is_so: Callable[[], bool]) -> None:
    """Turn a loop in which no backoff takes time, as the instants are all later than those at which it ends."""
    now_ns = time.monotonic_ns()

    def turn() -> bool:
        nonlocal now_ns
        now_ns += HALF_A_MINUTE_NS
        kept.act(now_ns)
        return is_so()

    wait_until(turn, 60, "the broker")


def test_port_that_another_program_took_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(port=free_port())
    broker = start_broker(settings, is_controlled=False)
    kept = KeptBroker(broker, settings)
    try:
        assert kept.next_wakeup() is None
        os.kill(broker.pid, signal.SIGKILL)
        os.waitpid(broker.pid, 0)
        assert not kept.take_end(broker.pid + 1, -signal.SIGKILL)
        assert kept.take_end(broker.pid, -signal.SIGKILL)
        with closing(socket.create_server(("127.0.0.1", settings.port))):
            act_until(kept, lambda: "could not start again" in caplog.text)
        assert (
            f"the embedded broker (process {broker.pid}) has ended (SIGKILL), and all its messages are lost"
            in caplog.text
        )
        assert f"cannot listen on 127.0.0.1:{settings.port}" in caplog.text
        act_until(kept, lambda: "serves again" in caplog.text)
        assert kept.next_wakeup() is None
        with Wire(kept.url) as wire:
            wire.channel()
    finally:
        kept.stop()
