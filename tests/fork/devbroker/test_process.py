"""The broker as a process: it says what it is, refuses production, dies with its parent, and has its time moved."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pamqp import commands

from mxworker.devbroker import process
from mxworker.devbroker.control import BrokerControl
from mxworker.devbroker.process import BrokerProcess, start_broker
from mxworker.devbroker.settings import Account, Limits, Settings
from mxworker.errors import BrokerError, ConfigError
from tests.harness.processes import Process
from tests.harness.waiting import wait_until
from tests.harness.wire import Closed, Wire

COMMAND = [sys.executable, "-m", "mxworker.devbroker"]
REFUSED = [{"MXWORKER_ENV": "production"}, {"INVOCATION_ID": "1234"}, {"NOTIFY_SOCKET": "/run/systemd/notify"}]


def clean_environment(**more: str) -> dict[str, str]:
    names = ("MXWORKER_ENV", "INVOCATION_ID", "NOTIFY_SOCKET")
    return {name: value for name, value in os.environ.items() if name not in names} | more


@pytest.mark.parametrize("environment", REFUSED, ids=lambda environment: next(iter(environment)))
def test_it_refuses_production(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [*COMMAND, "--port=0"],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=30,
        start_new_session=True,  # so that it has no terminal, as a service has none
    )
    assert done.returncode == 2
    assert "in memory only" in done.stderr
    assert next(iter(environment)) in done.stderr
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process, "has_terminal", lambda: False)
    with pytest.raises(ConfigError, match="in memory only"):
        start_broker()


def test_it_starts_in_a_terminal_window_that_systemd_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1234")
    monkeypatch.setattr(process, "has_terminal", lambda: True)
    with start_broker() as broker, Wire(broker.url) as wire:
        assert wire.server_properties["product"] == "mxworker embedded broker"


def test_it_starts_for_tests_that_a_service_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1234")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setattr(process, "has_terminal", lambda: False)
    with start_broker(is_for_tests=True) as broker, Wire(broker.url) as wire:
        assert wire.server_properties["product"] == "mxworker embedded broker"
    monkeypatch.setenv("MXWORKER_ENV", "production")
    with pytest.raises(ConfigError, match="production"):
        start_broker(is_for_tests=True)


@pytest.mark.parametrize("command", [COMMAND, [sys.executable, "-m", "mxworker", "broker"]])
def test_it_warns_in_a_box_and_ends_by_signal(command: list[str]) -> None:
    with subprocess.Popen([*command, "--port=0"], env=clean_environment(), stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        box = [broker.stdout.readline().rstrip() for _ in range(6)]
        assert "all are lost when it ends" in box[2]
        assert len({len(line) for line in box}) == 1
        url = box[3].split()[-2]
        with Wire(url) as wire:
            assert wire.server_properties["product"] == "mxworker embedded broker"
            broker.send_signal(signal.SIGINT)
            with pytest.raises(Closed, match="320 CONNECTION_FORCED"):
                wire.read(0)
        assert broker.wait(30) == 0


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"cannot listen on 127.0.0.1:{port}"):
            start_broker(Settings(port=port))
        done = subprocess.run(
            [sys.executable, "-m", "mxworker", "broker", f"--port={port}"],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_it_dies_with_its_parent() -> None:
    program = (
        "from mxworker.devbroker.process import start_broker; import os, time\n"
        "broker = start_broker(); print(broker.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        broker = Process.find(int(parent.stdout.readline()))
        assert broker is not None
        parent.kill()
    wait_until(lambda: not broker.is_alive, 30, "the broker to end")


def test_the_control_socket_is_its_owners_alone(embedded: BrokerProcess) -> None:
    path = Path(embedded.control_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_request_that_cannot_be_done_is_told(embedded: BrokerProcess) -> None:
    with embedded.control() as control:
        with pytest.raises(ValueError, match="forward only"):
            control.advance(-1)
        with pytest.raises(ValueError, match="cannot be done"):
            control._ask("dance")
        assert control.connections() >= 0


def test_a_retry_ladder_takes_milliseconds(embedded: BrokerProcess) -> None:
    """100 s, 500 s, 2500 s: each step is a queue whose messages expire back into the work queue."""
    with Wire(embedded.url) as wire, embedded.control() as control:
        channel = wire.channel()
        channel.declare("ladder", auto_delete=True)
        for step in (100, 500, 2500):
            back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "ladder"}
            channel.declare(f"ladder.{step}", exclusive=True, arguments={"x-message-ttl": step * 1000, **back})
        channel.consume("ladder", no_ack=True)
        moved = []
        for step in (100, 500, 2500):
            channel.publish(f"ladder.{step}", str(step).encode())
            channel.sync()
            moved.append(control.advance_to_next(6000))
            assert channel.delivery().body == str(step).encode()
        assert [round(seconds, -2) for seconds in moved] == [100, 500, 2500]


def test_messages_expire_in_the_order_of_their_instants(embedded: BrokerProcess) -> None:
    with Wire(embedded.url) as wire, embedded.control() as control:
        channel = wire.channel()
        channel.declare("expired", exclusive=True)
        for number, ttl_s in enumerate((300, 100, 200)):
            back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "expired"}
            channel.declare(f"in-{ttl_s}", exclusive=True, arguments={"x-message-ttl": ttl_s * 1000, **back})
            channel.publish(f"in-{ttl_s}", str(number).encode())
        channel.sync()
        control.advance(600)
        got = [channel.get("expired") for _ in range(3)]
        assert [each.body for each in got if each is not None] == [b"1", b"2", b"0"]
        times = [each.headers["x-death"][0]["time"] for each in got if each is not None]
        assert [round((at - times[0]).total_seconds(), -2) for at in times] == [0, 100, 200]


def test_the_control_tells_what_queues_hold(embedded: BrokerProcess) -> None:
    with Wire(embedded.url) as wire, embedded.control() as control:
        channel = wire.channel()
        channel.declare("held", exclusive=True)
        for _ in range(3):
            channel.publish("held")
        channel.qos(1)
        channel.consume("held")
        channel.sync()
        assert control.queues()["held"] == {"ready": 2, "unacked": 1, "consumers": 1}


def test_a_virtual_host_is_deleted_with_its_queues_and_their_timers(embedded: BrokerProcess) -> None:
    with embedded.control() as control:
        with Wire(f"{embedded.url}brief") as wire:
            channel = wire.channel()
            channel.declare("waiting", arguments={"x-message-ttl": 60_000})
            channel.publish("waiting")
            channel.sync()
        assert control.queues("brief")["waiting"]["ready"] == 1
        control.delete_vhost("brief")
        control.delete_vhost("brief")  # it is no error that it is gone
        assert control.queues("brief") == {}


def test_all_connections_are_closed_on_demand() -> None:
    with start_broker() as broker, Wire(broker.url) as wire, BrokerControl(broker.control_path) as control:
        assert control.disconnect() == 1
        with pytest.raises(Closed, match="320 CONNECTION_FORCED"):
            wire.read(0)


def test_limits_are_settings() -> None:
    limits = Limits(max_message_bytes=100, channel_max=3, heartbeat_s=7, frame_max=8192, delivery_limit=None)
    with start_broker(Settings(port=0, limits=limits)) as broker, Wire(broker.url, opened=False) as wire:
        wire.send_bytes(b"AMQP\x00\x00\x09\x01")
        wire.expect(0, commands.Connection.Start)
        wire.send(wire.start_ok())
        tune = wire.expect(0, commands.Connection.Tune)
        assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (3, 8192, 7)
        wire.send(commands.Connection.TuneOk(3, 8192, 0))
        wire.send(commands.Connection.Open("/"))
        wire.expect(0, commands.Connection.OpenOk)
        channel = wire.channel()
        channel.publish("x", b"x" * 101)
        with pytest.raises(Closed, match="message size 101 is larger than configured max size 100"):
            channel.sync()


def test_a_control_socket_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with start_broker(Settings(port=0, control_path=str(path))) as broker, broker.control() as control:
        assert control.connections() == 0
    assert tmp_path.exists()
    assert not path.exists()


def test_another_user_and_a_virtual_host() -> None:
    with start_broker(Settings(port=0, account=Account("me", "sec:ret/"))) as broker:
        assert "guest" not in broker.url
        with Wire(f"{broker.url}one") as one, Wire(f"{broker.url}two") as two:
            one.channel().declare("mine")
            with pytest.raises(Closed, match="no queue 'mine' in vhost 'two'"):
                two.channel().call(commands.Queue.Declare(queue="mine", passive=True))
