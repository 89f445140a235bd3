"""A service keeps its embedded broker going without waiting for it, whatever stands in the way."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

import pytest

from mxworker.devbroker.frames import PROTOCOL_HEADER
from mxworker.devbroker.keeping import KeptBroker
from mxworker.devbroker.process import PRODUCTION, start_broker
from mxworker.devbroker.settings import Settings
from mxworker.observer.http.addresses import Address, address_of, listen_at
from tests.harness.waiting import wait_until
from tests.harness.wire import Wire

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


def test_clients_wait_for_a_broker_that_cannot_start_and_no_program_takes_its_port(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = listen_at(Address(port=0))
    settings = Settings(port=address_of(listening).port)
    broker = start_broker(settings, listening=listening, is_controlled=False)
    kept = KeptBroker(broker, settings, listening)
    try:
        assert kept.next_wakeup() is None
        os.kill(broker.pid, signal.SIGKILL)
        os.waitpid(broker.pid, 0)
        assert not kept.take_end(broker.pid + 1, -signal.SIGKILL)
        assert kept.take_end(broker.pid, -signal.SIGKILL)
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", settings.port))
        early = socket.create_connection(("127.0.0.1", settings.port))
        early.sendall(PROTOCOL_HEADER)
        with monkeypatch.context() as patch:
            patch.setenv(PRODUCTION, "production")
            act_until(kept, lambda: "could not start again" in caplog.text)
        assert (
            f"the embedded broker (process {broker.pid}) has ended (SIGKILL), and all its messages are lost"
            in caplog.text
        )
        assert "does not run in production" in caplog.text
        act_until(kept, lambda: "serves again" in caplog.text)
        assert kept.next_wakeup() is None
        with Wire(kept.url) as wire:
            wire.channel()
        with early:
            assert early.recv(1), "the client that came too early is served"
    finally:
        kept.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", settings.port))
