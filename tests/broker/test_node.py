"""The private node itself: it starts, survives a crash, shows what it is asked for, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mxworker.wire.origins import headers_of
from mxworker.wire.properties import split
from tests.harness.proxy import proxy_to
from tests.harness.waiting import wait_until
from tests.harness.wire import Wire
from tests.rabbit import processes
from tests.rabbit.client import Client, NotConfirmed, Refused
from tests.rabbit.installation import broker, find_rabbitmq
from tests.rabbit.node import Node, NodeError
from tests.rabbit.ports import amqp_version, listens
from tests.rabbit.raw import HOSTILE, field, raw_properties, table

LIFETIME_S = 60.0
CONFIRMED = 200
LATE_S = 0.15
"""There and back: longer than RabbitMQ waits for a queue."""


def test_a_killed_node_comes_back_with_what_it_confirmed(own_node: Callable[..., Node]) -> None:
    node = own_node()
    with Client(node.url) as client:
        client.declare_quorum("kept")
        node.sync()
        client.publish("kept", (b"%d" % number for number in range(CONFIRMED)))
    node.kill()
    node.start()
    with Client(node.url) as client:
        # the broker opens its port before the queue has elected its leader
        wait_until(lambda: client.counts("kept").messages == CONFIRMED, LIFETIME_S, "the queue's messages")
        assert [received.body for received in client.drain("kept")] == [b"%d" % number for number in range(CONFIRMED)]


def test_a_stopped_node_leaves_no_process_and_stops_twice(own_node: Callable[..., Node]) -> None:
    node = own_node()
    assert len(processes.marked(node.data)) >= 2  # the Erlang machine and epmd; else the mark finds nothing
    node.stop()
    assert processes.marked(node.data) == []
    assert node.pid is None
    node.stop()


def test_the_node_is_the_one_that_the_header_of_the_run_names(node: Node) -> None:
    assert f"RabbitMQ {amqp_version(node.port)} (" in broker()


def test_a_node_of_another_version_than_announced_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path, rabbitmq=replace(find_rabbitmq(), version="2.8.7"))
    with pytest.raises(NodeError, match=r"not 2\.8\.7"):
        node.start()
    assert processes.marked(tmp_path) == []


def test_a_node_listens_on_loopback_only(node: Node) -> None:
    pids = set(processes.marked(node.data))
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    addresses = [address for address, inode in _listening() if inode in inodes]
    assert len(addresses) >= 3  # AMQP, the distribution, epmd
    assert set(addresses) <= {"0100007F", "00000000000000000000000001000000"}


def test_rabbitmqctl_reaches_the_node(node: Node) -> None:
    assert node.ctl("eval", "node().").strip() == "'mxworker@127.0.0.1'"
    with pytest.raises(NodeError, match="no-such-command"):
        node.ctl("no-such-command")


def test_configuration_reaches_the_node(own_node: Callable[..., Node]) -> None:
    node = own_node(config="channel_max = 7", advanced_config="[{rabbit, [{channel_tick_interval, 1234}]}].")
    asked = "{application:get_env(rabbit, channel_max), application:get_env(rabbit, channel_tick_interval)}."
    assert node.ctl("eval", asked).strip() == "{{ok,7},{ok,1234}}"


def test_a_node_that_cannot_start_shows_its_log(own_node: Callable[..., Node]) -> None:
    with pytest.raises(NodeError, match="no_such_setting"):
        own_node(config="no_such_setting = 1")


def test_a_killed_test_run_leaves_no_node(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from tests.rabbit.node import Node\n"
        "Node(pathlib.Path(sys.argv[1])).start()\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        assert run.stdout.readline() == b"started\n"
        assert processes.marked(tmp_path)
        run.kill()
        run.wait()
    wait_until(lambda: not processes.marked(tmp_path), LIFETIME_S, "the end of the node")


def test_only_unannounced_precondition_failures_are_reported(own_node: Callable[..., Node]) -> None:
    node = own_node()
    with Client(node.url) as client:
        client.declare("there")
        with node.expect_precondition_failed(), pytest.raises(Refused, match="406"):
            client.declare("there", durable=False)
        assert node.precondition_failures() == []
        with pytest.raises(Refused, match="406"):
            client.declare("there", durable=False)
    assert wait_until(node.precondition_failures, LIFETIME_S, "the line in the log")


def test_late_precondition_failure_of_a_test_that_announced_one_is_not_reported(own_node: Callable[..., Node]) -> None:
    node = own_node()
    late, other = f"test-{'0' * 12}.dlq", f"test-{'1' * 12}"
    with Client(node.url) as client:
        for name in (late, other):
            client.declare(name)
        with node.expect_precondition_failed(), pytest.raises(Refused, match="406"):
            client.declare(late, durable=False)
        for name in (late, other):
            with pytest.raises(Refused, match="406"):
                client.declare(name, durable=False)
    wait_until(node.precondition_failures, LIFETIME_S, "the line in the log")
    assert [other in line for line in node.precondition_failures()] == [True]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_properties_pass_through_the_broker_unchanged(admin: Client, queue_name: str, kind: str) -> None:
    admin.declare(queue_name)
    admin.publish_raw(queue_name, b"hostile", HOSTILE[kind])
    received = admin.get(queue_name)
    assert received is not None
    assert received.body == b"hostile"
    assert received.raw_properties == HOSTILE[kind]


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_the_broker_may_sort_headers_by_name_and_keeps_all_else_of_them(
    admin: Client, queue_name: str, queue_type: str
) -> None:
    """RabbitMQ 4 always does; RabbitMQ 3.10 where it adds the count of deliveries."""
    nested = field(b"a", b"F", table(field(b"z", b"V"), field(b"a", b"t", b"\1")))
    admin.declare(queue_name, arguments={"x-queue-type": queue_type})
    admin.publish_raw(queue_name, b"body", raw_properties(headers=table(field(b"b", b"V"), nested)))
    received = wait_until(lambda: admin.get(queue_name), LIFETIME_S, "the message")
    headers = [header for header in headers_of(split(received.raw_properties)) if header[0] != b"x-delivery-count"]
    assert sorted(headers) == [(b"a", nested[2:]), (b"b", b"V")]


def test_the_client_tells_the_truth(admin: Client, queue_name: str) -> None:
    assert not admin.exists(queue_name)
    with pytest.raises(NotConfirmed, match="NO_ROUTE"):
        admin.publish(queue_name, [b"nowhere"])
    admin.declare_quorum(queue_name, x_max_length=5, x_overflow="reject-publish")
    big = b"x" * 300_000  # three body frames
    admin.publish(queue_name, [big])
    assert admin.counts(queue_name) == (1, 0)
    assert admin.drain(queue_name)[0].body == big
    with pytest.raises(NotConfirmed, match="nacked"):
        admin.publish(queue_name, [b"too many"] * 2000)
    assert 5 <= admin.purge(queue_name) < 2000  # the limit of a quorum queue is a soft one
    assert admin.get(queue_name) is None


def test_the_clients_believe_that_a_queue_is_empty_when_all_answers_are_late(broker_url: str, queue_name: str) -> None:
    with proxy_to(broker_url) as proxy, Client(proxy.url(broker_url)) as client, Wire(proxy.url(broker_url)) as wire:
        client.declare_quorum(queue_name)
        channel = wire.channel()
        proxy.delay(LATE_S)
        assert client.counts(queue_name) == channel.counts(queue_name) == (0, 0)


def test_the_client_does_not_take_a_queue_that_hangs_for_an_empty_one(
    node: Node, admin: Client, queue_name: str
) -> None:
    admin.declare_quorum(queue_name)
    with node.hung(queue_name), pytest.raises(AssertionError, match="later than it answers other requests"):
        admin.counts(queue_name)
    assert admin.counts(queue_name) == (0, 0)


def test_the_wrapper_lends_a_broker_and_passes_the_exit_code_on() -> None:
    program = "import os, sys; print(os.environ['MXWORKER_BROKER_URL']); sys.exit(7)"
    wrapped = _wrapped(sys.executable, "-c", program)
    done = subprocess.run(wrapped, capture_output=True, text=True, timeout=4 * LIFETIME_S)
    assert done.returncode == 7, done.stderr
    port = int(done.stdout.strip().rstrip("/").rpartition(":")[2])
    assert not listens(port)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_wrapper_passes_signals_on_and_stops_the_node(signum: signal.Signals) -> None:
    program = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
        "print(os.environ['MXWORKER_BROKER_URL'], flush=True)\n"
        "received = signal.sigtimedwait({signal.SIGINT, signal.SIGTERM}, 30)\n"
        "print(received and signal.Signals(received.si_signo).name, flush=True)\n"
        "sys.exit(9)\n"
    )
    wrapper = subprocess.Popen(_wrapped(sys.executable, "-c", program), stdout=subprocess.PIPE, text=True)
    assert wrapper.stdout is not None
    with wrapper.stdout:
        port = int(wrapper.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        assert listens(port)
        wrapper.send_signal(signum)
        assert wrapper.stdout.read().strip() == signum.name
    assert wrapper.wait(LIFETIME_S) == 9
    assert not listens(port)


def test_the_wrapper_gives_the_shells_code_for_a_command_killed_by_a_signal(broker_url: str) -> None:
    env = {**os.environ, "MXWORKER_TEST_BROKER_URL": broker_url}
    done = subprocess.run(_wrapped("sh", "-c", "kill -KILL $$"), env=env, timeout=LIFETIME_S)
    assert done.returncode == 128 + signal.SIGKILL


def _wrapped(*command: str) -> Sequence[str]:
    return [sys.executable, "-m", "tests.rabbit", "--", *command]


def _socket_inodes(pid: int) -> set[str]:
    inodes: set[str] = set()
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return inodes  # the process has ended meanwhile
    for link in links:
        try:
            target = str(link.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return inodes


def _listening() -> list[tuple[str, str]]:
    """Return address (hexadecimal) and inode of every listening TCP socket."""
    listening = []
    for sockets in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(sockets).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":
                listening.append((columns[1].rpartition(":")[0], columns[9]))
    return listening
